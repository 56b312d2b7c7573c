"""What the command line says when a command cannot be done: one line with what to do, and exit status 2."""

from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa
import typer

from services.config import BadSetting, ConfigurationError, Settings, read_settings


def fail(message: str) -> typer.Exit:
    typer.secho(message, err=True, fg=typer.colors.RED)
    return typer.Exit(2)


def settings_now() -> Settings:
    """The settings in force, or the end of the command."""
    try:
        return read_settings()
    except BadSetting as wrong:
        raise fail(str(wrong)) from None


@contextmanager
def refusals() -> Iterator[None]:
    """What must keep a process from running becomes one line that says what to do, and exit status 2."""
    from events.kafka.connection import BrokerProblem
    from events.key_file import SealingError
    from events.log.schema import SchemaMismatch
    from services.migrate import MigrationFailed, NotPrepared
    from services.operations.health import OperationsPortTaken
    from services.operations.tracing import BadEndpoint
    from services.seeding import OtherUnitsHere, SomebodyWorksHere
    from services.serving import CannotListen

    stopping = (
        BadSetting,
        ConfigurationError,
        SchemaMismatch,
        SealingError,
        BrokerProblem,
        MigrationFailed,
        NotPrepared,
        CannotListen,
        OperationsPortTaken,
        BadEndpoint,
        OtherUnitsHere,
        SomebodyWorksHere,
    )
    try:
        yield
    except stopping as refused:
        raise fail(str(refused)) from None
    except sa.exc.SQLAlchemyError as failure:
        # Never its own text: it can quote what was being written.
        raise fail(
            f"The database cannot be used ({type(getattr(failure, 'orig', None) or failure).__name__}). "
            "See that it answers at HAVEN_DATABASE, and that the role's password is in HAVEN_SECRETS_DIR."
        ) from None
    except OSError as failure:
        place = failure.filename if isinstance(failure.filename, str) else getattr(failure.filename, "name", "a file")
        raise fail(
            f"{place} cannot be used ({type(failure).__name__}). Correct the path, or who may read and write it."
        ) from None
