// A headless browser with the app on a page: `node browser.js chromium|firefox …`. This process serves the page, and
// relays between it and the server, because a page cannot end a socket without a closing handshake.

import { spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import http from "node:http";
import net from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";

import { WebSocketServer } from "ws";

import { emit, obey, options } from "./node.js";

const { api, role, answerAfter, renew, talk, unit, command: [name] } = options();
const server = new URL(api);

const CHROMIUM = [
  "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync", "--disable-extensions", "--mute-audio",
  "--autoplay-policy=no-user-gesture-required",
  // Real addresses as candidates, including loopback.
  "--allow-loopback-in-peer-connection", "--disable-features=WebRtcHideLocalIpsWithMdns",
];

const FIREFOX = {
  // Real addresses as candidates, including loopback.
  "media.peerconnection.ice.loopback": true,
  "media.peerconnection.ice.obfuscate_host_addresses": false,
  "media.autoplay.default": 0,
  // No fetches, lookups or prompts.
  "app.normandy.enabled": false,
  "app.update.enabled": false,
  "browser.aboutwelcome.enabled": false,
  "browser.safebrowsing.malware.enabled": false,
  "browser.safebrowsing.phishing.enabled": false,
  "browser.shell.checkDefaultBrowser": false,
  "datareporting.policy.dataSubmissionEnabled": false,
  "extensions.update.enabled": false,
  "media.gmp-manager.updateEnabled": false,
  "network.captive-portal-service.enabled": false,
  "network.connectivity-service.enabled": false,
  "services.settings.server": "data:,",
  "toolkit.telemetry.server": "data:,",
};

/** Program and arguments of the browser. */
function browserCommand(profile, url) {
  if (name === "chromium") {
    return [process.env.CHROMIUM ?? "/usr/bin/chromium", [...CHROMIUM, `--user-data-dir=${profile}`, url]];
  }
  const lines = Object.entries(FIREFOX).map(([key, value]) => `user_pref(${JSON.stringify(key)}, ${JSON.stringify(value)});\n`);
  writeFileSync(path.join(profile, "user.js"), lines.join(""));
  return [process.env.FIREFOX ?? "/usr/bin/firefox-esr", ["--headless", "--no-remote", "--profile", profile, url]];
}

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
  try {
    if (pathname === "/unit") return response.end(unit ? readFileSync(unit) : "");
    const file = pathname === "/" ? "index.html" : path.basename(pathname);
    const folder = path.join(import.meta.dirname, ["control.js", "room.js", "w3c.js"].includes(file) ? "." : "page");
    const body = readFileSync(path.join(folder, file));
    response.setHeader("Content-Type", types[path.extname(file)] ?? "text/plain").end(body);
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
const url = `http://127.0.0.1:${proxy.address().port}/?role=${role}&answerAfter=${answerAfter}${renew ? "&renew=1" : ""}${talk ? "&talk=1" : ""}`;
// In the process group of this process, so that one signal ends both.
const [program, args] = browserCommand(profile, url);
const browser = spawn(program, args, { stdio: ["ignore", "ignore", "pipe"] });
let said = "";
browser.stderr.on("data", (data) => (said = (said + data).slice(-4000)));
browser.on("exit", (code) => {
  rmSync(profile, { recursive: true, force: true, maxRetries: 5 });
  if (code) emit("error", { message: `${name} ended with ${code}: ${said}` });
  process.exit(code ?? 1);
});

obey({
  drop: (ms) => page?.send(`drop-signaling ${ms}`),
  restart: () => page?.send("restart"),
  stop: () => page?.send("stop"),
  quit: () => {
    page?.send("quit");
    setTimeout(() => browser.kill(), 300);
  },
});
