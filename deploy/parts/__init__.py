"""Kafka, PostgreSQL and Keycloak as processes of this machine, for the tests and for a demonstration without containers.

Each part keeps its data, its log and its ports in one folder, listens on the loopback address alone, and dies with the
process that started it, even if that one is killed. Not for production: all of it is on one machine.

There is deliberately no fallback to a container engine: what the tests kill, freeze and wipe are processes and folders, and
an engine's daemon would own both. `docker-compose.yml` is the map for those who have one; tests can be pointed at it.

`python -m deploy.parts fetch` downloads everything, `python -m deploy.parts start kafka postgresql --folder F` runs them.
"""

from deploy.parts.kafka import Kafka, KafkaCluster
from deploy.parts.keycloak import Keycloak
from deploy.parts.postgresql import PostgreSQL

__all__ = ["Kafka", "KafkaCluster", "Keycloak", "PostgreSQL"]
