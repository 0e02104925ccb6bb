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
- Rows of a query that are asked for all at once need no transaction of their own.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import Any

from aiida.storage.psql_dos.models.settings import DbSetting
from aiida.storage.sqlite_dos.backend import SqliteDosStorage
from aiida.storage.sqlite_zip import models
from aiida.storage.sqlite_zip.orm import SqliteNode, SqliteNodeCollection, SqliteQueryBuilder
from aiida.storage.sqlite_zip.utils import create_sqla_engine
from sqlalchemy import event, update
from sqlalchemy.orm import scoped_session, sessionmaker

__all__ = ("BUSY_S", "SqliteDaemonStorage")

BUSY_S = 60
"""Seconds for which a writer waits for another one, before it gives up with "database is locked"."""


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
    """A query; one that is asked for all its rows at once opens no transaction."""

    def get_query(self, data: Any) -> Any:
        """Build the query; to tell whether it is the last one again costs more than what that saves."""
        return self._build(data)

    def iterall(self, data: Any, batch_size: int | None) -> Iterable[list[Any]]:
        """Iterate over the rows, ``batch_size`` of which are read at a time, or all of them."""
        if batch_size is not None:
            yield from super().iterall(data, batch_size)
            return
        with self.query_session(data) as build:
            rows = self.get_session().execute(build.query.statement).all()
        for row in rows:
            yield [self.to_backend(item) for item in row]


class SqliteDaemonStorage(SqliteDosStorage):
    """SQLite and a folder of files, for a daemon with several workers."""

    def _initialise_session(self) -> None:
        engine = create_sqla_engine(self.filepath_database, connect_args={"timeout": BUSY_S})
        event.listen(engine, "connect", _tune)
        self._session_factory = scoped_session(sessionmaker(bind=engine, future=True, expire_on_commit=False))

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


def _tune(connection: Any, _: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = NORMAL")
    cursor.close()
