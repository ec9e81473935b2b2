// node's ws: the reference protocol with a window of 1, and JSON tokens without acknowledgements.
const { WebSocketServer } = require("ws");

const server = new WebSocketServer({ host: "127.0.0.1", port: 0 }, () => console.log("listening on", server.address().port));
server.on("connection", (socket, request) => {
  const json = request.url.startsWith("/json");
  let timer = null;
  let sent = 0;
  const end = () => {
    clearTimeout(timer);
    timer = null;
    socket.send(json ? JSON.stringify({ event: "end" }) : "_end_");
  };
  const next = () => {
    timer = setTimeout(() => {
      socket.send(json ? JSON.stringify({ event: "token", text: "word".repeat(40) + sent }) : String(sent));
      sent += 1;
      if (json) {
        if (sent === 10) end();
        else next();
      }
    }, 20);
  };
  socket.on("message", (data) => {
    const text = data.toString();
    if (text === "stop") {
      if (timer !== null) end();
    } else if (text === "") {
      if (sent === 10) end();
      else if (timer !== null) next();
    } else {
      sent = 0;
      next();
    }
  });
  socket.on("close", () => clearTimeout(timer));
});
