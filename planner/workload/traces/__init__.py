"""Trace files: one reader a format, and a writer of our own."""

from planner.workload.traces.formats import TraceFormat, read_trace, trace_format
from planner.workload.traces.rows import TraceWarning
from planner.workload.traces.write import write_requests

__all__ = [
    "TraceFormat",
    "TraceWarning",
    "read_trace",
    "trace_format",
    "write_requests",
]
