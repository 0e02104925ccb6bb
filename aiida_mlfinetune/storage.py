"""``mlfinetune.sqlite_dos``: AiiDA's ``core.sqlite_dos``, for a daemon with several workers.

The files are those of ``core.sqlite_dos``: a profile changes from one to the other by its entry ``storage.backend`` in
AiiDA's ``config.json``. Of the time that a worker spends on a short job, about half goes into the database; this
storage asks it less often and doesn't wait for the disk:

- The database writes to a log ahead (WAL), so that readers and writers don't wait for each other, and a writer waits
  up to ``BUSY_S`` for another one, where SQLite's 5 s are too short on a busy machine. The log gets to the disk when it
  is merged, not at each commit: a process that is killed loses nothing; a machine that loses power may lose the last
  commits, but never a consistent database (https://www.sqlite.org/pragma.html#pragma_synchronous).
- A commit doesn't make SQLAlchemy forget all that it has read. AiiDA itself reads each field that can change anew,
  whenever it is asked for.
- Attributes of data are not read again: they never change once stored.
- The time of the last change of a process's state is one statement, not four.
- The rows of a query are read at once, and need no transaction.

With a log ahead, a transaction that has read and then writes fails at once with "database is locked" where another
worker has written in between, whatever it was told to wait. So none is left open after a read, and one that is opened
to write is a writer from its start (https://www.sqlite.org/isolation.html).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cached_property
from typing import Any

from aiida.storage.psql_dos.models.settings import DbSetting
from aiida.storage.sqlite_dos.backend import SqliteDosStorage
from aiida.storage.sqlite_zip import models
from aiida.storage.sqlite_zip.orm import SqliteNode, SqliteNodeCollection, SqliteQueryBuilder
from aiida.storage.sqlite_zip.utils import create_sqla_engine
from sqlalchemy import event, update
from sqlalchemy.orm import Session, scoped_session, sessionmaker

__all__ = ("BUSY_S", "SqliteDaemonStorage")

BUSY_S = 60
"""Seconds for which a writer waits for another one, before it gives up with "database is locked"."""

_READS: ContextVar[bool] = ContextVar("reads", default=False)
"""Whether a query reads its rows, for which AiiDA asks for a transaction, as others may change them while it reads."""


class NodeRow(SqliteNode):
    """A row of the table of nodes; attributes of data are read once."""

    @property
    def attributes(self) -> dict[str, Any]:
        """Return all attributes."""
        return self.bare_model.attributes if self._is_data else super().attributes

    def get_attribute(self, key: str) -> Any:
        """Return one attribute.

        Raises:
            AttributeError: there is none of that name.
        """
        if not self._is_data:
            return super().get_attribute(key)
        try:
            return self.bare_model.attributes[key]
        except KeyError as error:
            raise AttributeError(f"attribute '{error}' does not exist") from error

    @property
    def _is_data(self) -> bool:
        return bool(self.bare_model.node_type.startswith("data."))


class NodeTable(SqliteNodeCollection):
    """The table of nodes."""

    ENTITY_CLASS = NodeRow


class Query(SqliteQueryBuilder):
    """A query, all of whose rows are read before the first is given."""

    def get_query(self, data: Any) -> Any:
        """Build the query; to tell whether it is the last one again costs more than what that saves."""
        return self._build(data)

    def iterall(self, data: Any, batch_size: int | None) -> Iterable[list[Any]]:  # noqa: ARG002
        """Iterate over the rows as lists; ``batch_size`` changes nothing."""
        return _read(super().iterall(data, None))

    def iterdict(self, data: Any, batch_size: int | None) -> Iterable[dict[str, dict[str, Any]]]:  # noqa: ARG002
        """Iterate over the rows as dictionaries; ``batch_size`` changes nothing."""
        return _read(super().iterdict(data, None))


class SqliteDaemonStorage(SqliteDosStorage):
    """SQLite and a folder of files, for a daemon with several workers."""

    def _initialise_session(self) -> None:
        engine = create_sqla_engine(self.filepath_database, connect_args={"timeout": BUSY_S})
        event.listen(engine, "connect", _tune)
        event.listen(engine, "savepoint", _begin_as_writer)
        self._session_factory = scoped_session(sessionmaker(bind=engine, future=True, expire_on_commit=False))

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """Open a transaction: all of it is done, or nothing where there was an exception."""
        session = self.get_session()
        if _READS.get():
            yield session
            return
        outermost = not self.in_transaction
        try:
            with super().transaction():
                yield session
        finally:
            if outermost:  # where it failed, AiiDA goes back to the savepoint only, and the next writer would wait
                session.rollback()

    def query(self) -> Query:
        """Return a query of this storage."""
        return Query(self)

    def get_backend_entity(self, model: Any) -> Any:
        """Return what AiiDA works with for a row."""
        if isinstance(model, models.DbNode):
            return NodeRow.from_dbmodel(model, self)
        return super().get_backend_entity(model)

    def set_global_variable(self, key: str, value: Any, description: str | None = None, overwrite: bool = True) -> None:
        """Set a variable of the profile, such as the time at which a process last changed its state.

        Raises:
            ValueError: it is there already, and must not be overwritten.
        """
        if overwrite and not self.in_transaction:
            session = self.get_session()
            done = session.execute(update(DbSetting).where(DbSetting.key == key).values(val=value))
            session.commit()
            if done.rowcount:
                return
        super().set_global_variable(key, value, description, overwrite)

    @cached_property
    def nodes(self) -> NodeTable:
        """Return the table of nodes."""
        return NodeTable(self)


def _read(rows: Iterable[Any]) -> Iterable[Any]:
    token = _READS.set(True)
    try:
        return iter(list(rows))
    finally:
        _READS.reset(token)


def _begin_as_writer(connection: Any, _: str) -> None:
    if not connection.connection.dbapi_connection.in_transaction:
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def _tune(connection: Any, _: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = NORMAL")
    cursor.close()
