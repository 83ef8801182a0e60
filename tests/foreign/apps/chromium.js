// Headless Chromium with the app on a page. This process gives it the page, and stands between it and the server, for
// a page can neither end a socket without a closing handshake nor ask another origin for a token.

import { spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import http from "node:http";
import net from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";

import { WebSocketServer } from "ws";

import { emit, obey, options } from "./node.js";

const { api, role, answerAfter } = options();
const server = new URL(api);

const FLAGS = [
  "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync", "--disable-extensions", "--mute-audio",
  "--autoplay-policy=no-user-gesture-required",
  // Real addresses as candidates, loopback too.
  "--allow-loopback-in-peer-connection", "--disable-features=WebRtcHideLocalIpsWithMdns",
];

/** Sockets between the page and the signaling server. */
const sockets = new Set();

const types = { ".html": "text/html", ".js": "text/javascript" };

const proxy = http.createServer((request, response) => {
  if (request.method === "POST") {
    const headers = { authorization: request.headers.authorization, "content-type": "application/json" };
    const onward = http.request({ host: server.hostname, port: server.port, path: request.url, method: "POST", headers });
    onward.on("response", (answer) => {
      response.writeHead(answer.statusCode, answer.headers);
      answer.pipe(response);
    });
    onward.on("error", () => response.destroy());
    return request.pipe(onward);
  }
  if (request.url === "/cut") {
    for (const socket of sockets) socket.destroy();
    return response.end();
  }
  const { pathname } = new URL(request.url, api);
  const name = pathname === "/" ? "index.html" : path.basename(pathname);
  try {
    const folder = path.join(import.meta.dirname, ["room.js", "w3c.js"].includes(name) ? "." : "page");
    const body = readFileSync(path.join(folder, name));
    response.setHeader("Content-Type", types[path.extname(name)] ?? "text/plain").end(body);
  } catch {
    response.writeHead(404).end();
  }
});

const rig = new WebSocketServer({ noServer: true });
let page = null;

proxy.on("upgrade", (request, socket, head) => {
  if (request.url === "/rig") {
    rig.handleUpgrade(request, socket, head, (opened) => {
      page = opened;
      page.on("message", (text) => process.stdout.write(`${text}\n`));
    });
    return;
  }
  const onward = net.connect(Number(server.port), server.hostname);
  for (const [one, other] of [[socket, onward], [onward, socket]]) {
    sockets.add(one);
    one.on("error", () => {});
    one.on("close", () => {
      sockets.delete(one);
      other.destroy();
    });
  }
  const headers = { ...request.headers, host: server.host, origin: server.origin };
  onward.write(`GET ${request.url} HTTP/1.1\r\n`);
  for (const [header, value] of Object.entries(headers)) onward.write(`${header}: ${value}\r\n`);
  onward.write("\r\n");
  onward.write(head);
  socket.pipe(onward).pipe(socket);
});

await new Promise((resolve) => proxy.listen(0, "127.0.0.1", resolve));
const profile = mkdtempSync(path.join(tmpdir(), "orion-foreign-"));
const url = `http://127.0.0.1:${proxy.address().port}/?role=${role}&answerAfter=${answerAfter}`;
// In the process group of this process, so that one signal ends both.
const browser = spawn(process.env.CHROMIUM ?? "/usr/bin/chromium", [...FLAGS, `--user-data-dir=${profile}`, url], {
  stdio: ["ignore", "ignore", "pipe"],
});
let said = "";
browser.stderr.on("data", (data) => (said = (said + data).slice(-4000)));
browser.on("exit", (code) => {
  rmSync(profile, { recursive: true, force: true, maxRetries: 5 });
  if (code) emit("error", { message: `Chromium ended with ${code}: ${said}` });
  process.exit(code ?? 1);
});

obey({
  drop: (ms) => page?.send(`drop-signaling ${ms}`),
  quit: () => {
    page?.send("quit");
    setTimeout(() => browser.kill(), 300);
  },
});
