"""``--otel``: spans and metrics of real runs at a local OTLP receiver, beside the record."""

from __future__ import annotations

import gzip
import http.server
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from loadtest.ports import free_port

collector_trace = pytest.importorskip(
    "opentelemetry.proto.collector.trace.v1.trace_service_pb2", reason="the OpenTelemetry exporter is not installed"
)
collector_metrics = pytest.importorskip("opentelemetry.proto.collector.metrics.v1.metrics_service_pb2")


class Receiver:
    """An OTLP receiver over HTTP that keeps what it gets."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.metrics: dict[str, list[Any]] = {}
        outer = self

        class Ask(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.take(self.path, gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body)
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Ask)
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def take(self, path: str, body: bytes) -> None:
        if path == "/v1/traces":
            for resource in collector_trace.ExportTraceServiceRequest.FromString(body).resource_spans:
                for scope in resource.scope_spans:
                    self.spans += [span for span in scope.spans if scope.scope.name == "streamgauge"]
        elif path == "/v1/metrics":
            for resource in collector_metrics.ExportMetricsServiceRequest.FromString(body).resource_metrics:
                for scope in resource.scope_metrics:
                    self.metrics.update({metric.name: metric for metric in scope.metrics if scope.scope.name == "streamgauge"})

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    made = Receiver()
    for name, value in (
        ("OTEL_EXPORTER_OTLP_ENDPOINT", made.url), ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"), ("OTEL_LOGS_EXPORTER", "none"),
        ("OTEL_BSP_SCHEDULE_DELAY", "200"), ("OTEL_METRIC_EXPORT_INTERVAL", "1000"),
    ):  # fmt: skip
        monkeypatch.setenv(name, value)
    yield made
    made.close()


def attributes(span: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in span.attributes}


@pytest.mark.parametrize("processes", [0, 2])
def test_every_conversation_is_a_span_with_the_measured_instants(
    receiver: Receiver, start_locust: Callable[..., Any], serve: Callable[..., Any], processes: int
) -> None:
    server = serve("--gap-ms", "5", "--tokens", "6")
    options = ("--otel", "-H", server.url, "-u", "4", "-r", "4", "-t", "4s", "--stop-share", "0.4", "--warm-up", "0")
    more = ("--processes", str(processes), *master_port()) if processes else ()
    run = start_locust(*options, *more)
    assert run.wait() == 0, run.log
    assert "OpenTelemetry enabled" in run.log
    rows = {(row["worker"], row["conversation"]): row for row in run.rows("conversations")}
    spans = {}
    for span in receiver.spans:
        if span.name == "conversation":
            about = attributes(span)
            spans[about["streamgauge.worker"], about["streamgauge.conversation"]] = (span, about)
    assert len(rows) > 20
    assert spans.keys() == rows.keys()
    origin = run.metadata["origin_wall_ns"]
    for key, (span, about) in spans.items():
        row = rows[key]
        assert span.start_time_unix_nano == origin + row["sent_at_ns"]
        assert span.end_time_unix_nano == origin + row["end_at_ns"]
        assert (about["streamgauge.outcome"], about["streamgauge.tokens"]) == (row["outcome"], row["tokens"])
        assert about["streamgauge.run"] == run.metadata["name"]
        assert about.get("streamgauge.ttft_ns") == row["ttft_ns"]
        events = {event.name: event.time_unix_nano - origin for event in span.events}
        assert events.get("first token") == row["first_token_at_ns"]
        assert events.get("stop sent") == row["stop_sent_at_ns"]
    assert sum(span.name == "connect" for span in receiver.spans) == len(run.rows("connections"))
    tokens = receiver.metrics["streamgauge.tokens"].sum.data_points
    assert [point.as_int for point in tokens][-1] > 0
    ttft = receiver.metrics["streamgauge.conversation.time_to_first_token"].histogram.data_points
    measured = [row for row in rows.values() if row["ttft_ns"] is not None and not row["tainted"]]
    if not processes:
        assert sum(point.count for point in ttft) == len(measured)
        assert sum(point.sum for point in ttft) == pytest.approx(sum(row["ttft_ns"] for row in measured) / 1e9)


def test_failures_are_errors(receiver: Receiver, start_locust: Callable[..., Any], serve: Callable[..., Any]) -> None:
    server = serve("--gap-ms", "5", "--tokens", "6", "--max-connections", "1")
    run = start_locust("--otel", "-H", server.url, "-u", "3", "-r", "3", "-t", "3s", "--warm-up", "0")
    run.wait()
    failed = [span for span in receiver.spans if span.name == "connect" and span.status.code == 2]
    assert failed, run.log
    assert {attributes(span)["error.type"] for span in failed} == {"handshake_status"}


def master_port() -> tuple[str, ...]:
    port = str(free_port())
    return ("--master-bind-port", port, "--master-port", port)


def test_without_the_option_nothing_is_sent(receiver: Receiver, start_locust: Callable[..., Any], serve: Callable[..., Any]) -> None:
    run = start_locust("-H", serve("--gap-ms", "5").url, "-u", "1", "-t", "2s", "--tokens", "4")
    assert run.wait() == 0
    assert (receiver.spans, receiver.metrics) == ([], {})
