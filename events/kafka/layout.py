"""What the topics are called and how they are kept. Everything is kept for ever: a consumer that is new, or was lost, reads its
history from the start.

Apart from `topics`, so that whoever only describes them loads no client of a broker.
"""

from dataclasses import dataclass, field

from events.kafka.wire import LARGEST_BODY

SOURCES = ("gateway", "placement", "capacity")
DEAD_LETTERS = "dead-letters"
PREFIX = "haven"
LARGEST_MESSAGE = "max.message.bytes"


@dataclass(frozen=True)
class Layout:
    """What the topics of one installation are called and how they are kept."""

    prefix: str = PREFIX
    partitions: int = 6
    """Of each service's topic; as many workers of one kind can share the work."""
    replication: int = 3
    in_sync: int = 2
    """Copies that must have a message before it counts as sent: one broker may be lost with nothing lost."""
    sources: tuple[str, ...] = field(default=SOURCES)

    def topic(self, source: str) -> str:
        """The topic of one service's log."""
        return f"{self.prefix}.{source}"

    @property
    def dead_letters(self) -> str:
        return self.topic(DEAD_LETTERS)

    def wanted(self) -> dict[str, int]:
        """Every topic with its partitions. Dead letters are few, and read in order."""
        return {self.topic(source): self.partitions for source in self.sources} | {self.dead_letters: 1}

    def settings(self) -> dict[str, str]:
        return {
            "cleanup.policy": "delete",
            "retention.ms": "-1",
            "retention.bytes": "-1",
            "min.insync.replicas": str(self.in_sync),
            LARGEST_MESSAGE: str(LARGEST_BODY + 64 * 1024),  # headers and the batch around the body
            # With the sender's own clock, brokers refuse whoever is an hour ahead. When a fact was decided, ce_time says.
            "message.timestamp.type": "LogAppendTime",
            "compression.type": "producer",  # a broker that compressed anew could choose what our clients cannot read
            "unclean.leader.election.enable": "false",
        }
