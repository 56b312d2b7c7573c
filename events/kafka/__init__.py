"""The distributed transport: the logs relayed to Kafka, and taken from there again."""
