"""How the ringing goes: what waits to be sent, for how long, what was sent and what failed; never whom."""

from collections.abc import Callable
from datetime import datetime

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from services.notifications.notifier import Notifier
from services.operations.metrics import Asked


def watch_notifier(metrics: CollectorRegistry, notifier: Notifier, now: Callable[[], datetime]) -> None:
    """Registers the metrics of one process that rings people."""

    def read() -> list[Metric]:
        standing = notifier.queue.standing()
        sent = CounterMetricFamily("haven_messages_sent", "Messages that a service has taken over", labels=["message"])
        failed = CounterMetricFamily(
            "haven_message_failures", "Tries to send a message that failed", labels=["message"]
        )
        for message, count in notifier.sent_messages.items():
            sent.add_metric([message], count)
        for message, count in notifier.failed_tries.items():
            failed.add_metric([message], count)
        gauges = (
            ("haven_rings_waiting", "Rings to be sent now or later, of what still waits", standing.waiting),
            ("haven_rings_given_up", "Rings that no try got through, of what still waits", standing.failed),
            (
                "haven_rings_to_nobody",
                "Rings for which the operator's file names nobody, of what still waits",
                standing.nobody,
            ),
            (
                "haven_oldest_ring_seconds",
                "How long a message waits that could have been sent; 0 if none does",
                max(0.0, (now() - standing.oldest).total_seconds()) if standing.oldest else 0.0,
            ),
            (
                "haven_ringing_paused",
                "1 while nobody is rung because the read model is not whole",
                notifier.queue.is_paused(),
            ),
        )
        return [sent, failed, *(GaugeMetricFamily(name, text, value=float(value)) for name, text, value in gauges)]

    metrics.register(Asked("haven_notify_up", read))
