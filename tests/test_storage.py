"""The storage for a daemon with several workers: what a worker writes another one reads, and with few questions."""

from __future__ import annotations

import uuid

import pytest
from aiida import orm
from aiida.manage.configuration import Profile
from aiida.storage.sqlite_dos.backend import SqliteDosStorage
from sqlalchemy import event, text
from sqlalchemy.exc import OperationalError

from aiida_mlfinetune.storage import BUSY_S, SqliteDaemonStorage


@pytest.fixture
def profile(aiida_profile, tmp_path):
    """A profile with an empty database."""
    profile = Profile(
        "other",
        {
            "PROFILE_UUID": uuid.uuid4().hex,
            "storage": {"backend": "mlfinetune.sqlite_dos", "config": {"filepath": str(tmp_path / "storage")}},
            "process_control": {"backend": None, "config": {}},
        },
    )
    SqliteDaemonStorage.initialise(profile)
    return profile


@pytest.fixture
def connect(profile):
    """Open the database, as a worker of the daemon does."""
    opened = []

    def open_it(kind=SqliteDaemonStorage):
        opened.append(kind(profile))
        return opened[-1]

    yield open_it
    for storage in opened:
        storage.close()


@pytest.fixture
def worker(connect):
    """A worker, in whose database there is a user."""
    storage = connect()
    orm.User("someone@localhost", backend=storage).store()
    return storage


def user(storage):
    return orm.User.get_collection(storage).find()[0]


def statements(storage):
    """Return the list to which each statement from now on is added."""
    seen = []
    event.listen(
        storage.get_session().get_bind(), "before_cursor_execute", lambda *arguments: seen.append(arguments[2])
    )
    return seen


def process(storage):
    return orm.WorkChainNode(backend=storage, user=user(storage)).store()


def undo(storage, key):
    with storage.transaction():
        storage.set_global_variable(key, "4")
        raise RuntimeError("undone")


def test_no_writer_waits_for_readers_nor_for_the_disk_but_for_another_writer(worker):
    session = worker.get_session()
    assert session.execute(text("PRAGMA journal_mode")).scalar() == "wal"
    assert session.execute(text("PRAGMA synchronous")).scalar() == 1
    assert session.execute(text("PRAGMA busy_timeout")).scalar() == BUSY_S * 1000
    assert session.execute(text("PRAGMA foreign_keys")).scalar() == 1


def test_what_one_worker_writes_another_one_reads(worker, connect):
    other = connect()
    node = process(worker)
    seen = orm.QueryBuilder(backend=other).append(orm.WorkChainNode).one()[0]
    assert seen.process_status is None
    for status in ("waiting", "running"):
        node.set_process_status(status)
        node.base.extras.set("status", status)
        node.label = status
        assert seen.process_status == status
        assert seen.base.attributes.all["process_status"] == status
        assert seen.base.extras.get("status") == status
        assert seen.label == status
    node.seal()
    assert seen.is_sealed


def test_attributes_of_data_are_read_once(worker):
    stored = orm.Dict({"a": 1, "b": {"c": [2]}}, backend=worker, user=user(worker)).store()
    node = orm.QueryBuilder(backend=worker).append(orm.Dict).one()[0]
    seen = statements(worker)
    assert node.get_dict() == stored.get_dict() == {"a": 1, "b": {"c": [2]}}
    assert node["a"] == 1
    assert seen == []
    with pytest.raises(AttributeError, match="missing"):
        node.base.attributes.get("missing")
    running = process(worker)
    seen.clear()
    assert running.process_status is None
    assert len(seen) == 1


def test_a_query_reads_its_rows_at_once_and_opens_no_transaction(worker):
    for number in range(3):
        orm.Int(number, backend=worker, user=user(worker)).store()
    query = orm.QueryBuilder(backend=worker).append(orm.Int, project="attributes.value", tag="number")
    seen = statements(worker)
    assert sorted(query.all(flat=True)) == [0, 1, 2]
    assert sorted(value for (value,) in query.iterall(batch_size=2)) == [0, 1, 2]
    assert sorted(row["number"]["attributes.value"] for row in query.iterdict(batch_size=2)) == [0, 1, 2]
    assert len(seen) == 3
    assert query.add_filter("number", {"attributes.value": {">": 0}}).count() == 2


@pytest.mark.parametrize("iterate", ["iterall", "iterdict"])
def test_who_still_goes_through_rows_can_write_after_another_worker_has_written(worker, connect, iterate):
    other = connect()
    for _ in range(3):
        process(worker)
    rows = getattr(orm.QueryBuilder(backend=worker).append(orm.WorkChainNode, tag="node"), iterate)(batch_size=1)
    next(rows)
    process(other)
    process(worker)
    assert len(list(rows)) == 2
    assert orm.QueryBuilder(backend=other).append(orm.WorkChainNode).count() == 5


def test_a_transaction_that_reads_first_can_write_and_others_wait_for_it(worker, connect):
    other, node = connect(), process(worker)
    other.get_session().execute(text("PRAGMA busy_timeout = 10"))
    with worker.transaction():
        assert orm.QueryBuilder(backend=worker).append(orm.WorkChainNode).count() == 1
        with pytest.raises(OperationalError, match="locked"):
            process(other)
        other.get_session().rollback()
        node.base.extras.set("a", 1)
    process(other)
    assert orm.QueryBuilder(backend=other).append(orm.WorkChainNode).count() == 2


def test_nobody_waits_for_a_transaction_that_failed(worker, connect):
    other, node = connect(), process(worker)
    other.get_session().execute(text("PRAGMA busy_timeout = 10"))
    with pytest.raises(RuntimeError, match="undone"):
        undo(worker, "process|state_change|work")
    process(other)
    node.label = "still there"
    assert orm.QueryBuilder(backend=other).append(orm.WorkChainNode, filters={"label": "still there"}).count() == 1


def test_the_time_of_the_last_change_of_a_state_is_written_by_one_statement(worker, connect):
    other = connect()
    worker.set_global_variable("process|state_change|work", "1", "when")
    assert other.get_global_variable("process|state_change|work") == "1"
    seen = statements(worker)
    worker.set_global_variable("process|state_change|work", "2")
    assert len(seen) == 1
    assert other.get_global_variable("process|state_change|work") == "2"
    with pytest.raises(ValueError, match="already exists"):
        worker.set_global_variable("process|state_change|work", "3", overwrite=False)
    with pytest.raises(RuntimeError, match="undone"):
        undo(worker, "process|state_change|work")
    assert other.get_global_variable("process|state_change|work") == "2"


def test_the_files_are_those_of_aiidas_own_storage(worker, connect):
    pk = orm.Dict({"a": 1}, backend=worker, user=user(worker)).store().pk
    plain = connect(SqliteDosStorage)
    (node,) = orm.QueryBuilder(backend=plain).append(orm.Dict, filters={"id": pk}).one()
    assert node.get_dict() == {"a": 1}
