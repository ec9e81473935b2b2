// The same conversation on node's `ws`, to compare servers with: rules R1 to R9 of docs/protocol.md, fixed gaps, numbers for tokens.
//
//     WS_MODULE=/path/to/node_modules/ws node benchmarks/peers/ws_server.cjs
//
// Prints where it listens, as the others do. Ends on SIGTERM.
"use strict";
const http = require("node:http");
const { WebSocketServer } = require(process.env.WS_MODULE || "ws");

const ACK = "", STOP = "stop", END = "_end_";
const ACK_TIMEOUT_MS = 30000, BURST = 32;
const counts = { tokens: 0, open: 0 };

class Answers {
  constructor(socket, plan) {
    this.socket = socket;
    this.plan = plan;
    this.unacked = 0;
    this.answering = false;
    this.timer = null;
    this.ackTimer = null;
  }

  received(text) {
    if (text === ACK) {
      if (this.unacked > 0) this.unacked -= 1;
      this.progress = performance.now();
      if (this.answering && this.timer === null) this.advance();
    } else if (text === STOP) {
      if (this.answering) this.end();
    } else {
      this.cancel(); // a prompt while answering supersedes, without an end
      this.answering = true;
      this.unacked = 0;
      this.next = 0;
      this.start = this.progress = performance.now();
      if (this.plan.window) this.ackTimer = setTimeout(() => this.checkAck(), ACK_TIMEOUT_MS);
      this.advance();
    }
  }

  due(number) {
    return this.start + this.plan.ttft_ms + number * this.plan.gap_ms;
  }

  // Send what is due and may go; a timer, or the next acknowledgement, sees to the rest.
  advance() {
    this.timer = null;
    for (let left = BURST; this.next < this.plan.tokens; left--) {
      const wait = this.due(this.next) - performance.now();
      if (wait > 0) {
        this.timer = setTimeout(() => this.advance(), wait);
        return;
      }
      if (this.plan.window && this.unacked >= this.plan.window) return;
      if (left === 0 || this.socket.bufferedAmount > 65536) {
        this.timer = setImmediateTimer(() => this.advance());
        return;
      }
      this.socket.send(String(this.next++));
      counts.tokens += 1;
      if (this.plan.window) this.unacked += 1;
    }
    if (this.unacked === 0) this.end();
  }

  checkAck() {
    if (performance.now() - this.progress >= ACK_TIMEOUT_MS) this.end();
    else this.ackTimer = setTimeout(() => this.checkAck(), ACK_TIMEOUT_MS);
  }

  end() {
    this.cancel();
    this.socket.send(END);
  }

  cancel() {
    this.answering = false;
    this.unacked = 0;
    if (this.timer !== null) this.timer.cancel ? this.timer.cancel() : clearTimeout(this.timer);
    if (this.ackTimer !== null) clearTimeout(this.ackTimer);
    this.timer = this.ackTimer = null;
  }
}

function setImmediateTimer(call) {
  const handle = setImmediate(call);
  return { cancel: () => clearImmediate(handle) };
}

function readPlan(url) {
  const query = new URL(url, "http://localhost").searchParams;
  const number = (name, otherwise) => (query.has(name) ? Number(query.get(name)) : otherwise);
  const gap_ms = number("gap_ms", 1000);
  return { tokens: number("tokens", 12), gap_ms, ttft_ms: number("ttft_ms", gap_ms), window: number("window", 1) };
}

const server = http.createServer((request, response) => {
  if (request.url === "/healthz") return response.end("ok\n");
  response.statusCode = 404;
  response.end("nothing is here; the WebSocket is at /ws\n");
});
const sockets = new WebSocketServer({ server, path: "/ws", maxPayload: 65536, perMessageDeflate: false });
sockets.on("connection", (socket, request) => {
  const answers = new Answers(socket, readPlan(request.url));
  socket.on("message", (data, isBinary) => {
    if (isBinary) socket.close(1003, "this protocol is text only");
    else answers.received(data.toString());
  });
  socket.on("close", () => answers.cancel());
  socket.on("error", () => answers.cancel());
});
server.listen({ port: Number(process.argv[2] || 0), host: "127.0.0.1", backlog: 4096 }, () => {
  console.log(`listening on ws://127.0.0.1:${server.address().port}/ws (page: http://127.0.0.1:${server.address().port}/)`);
});
process.on("SIGTERM", () => process.exit(0));
