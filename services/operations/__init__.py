"""What whoever runs Haven sees of a process: its log lines, metrics, traces, health and diagnosis. Never what is in a case."""
