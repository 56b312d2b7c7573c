"""What rebuilds the read model sees all three logs and every row; who shows it sees none without saying for whom."""

from events.log.engines import postgresql_engine
from events.log.store import EventLog
from events.vocabulary import Stage
from services.gateway.read_model import ReadModel
from tests.gateway.world import World


def test_the_projection_builds_the_read_model_again_from_all_three_logs(world: World) -> None:
    world.bring_to(Stage.ENDED)
    core = world.core
    url = core.projection.log.engine.url
    logs = {name: EventLog(postgresql_engine(url, name), name) for name in ("gateway", "placement", "capacity")}
    before, after = core.projection.rebuild(logs)
    assert before == after
    assert before != ReadModel(core.gateway_log.engine).digest()
    for log in logs.values():
        log.engine.dispose()
