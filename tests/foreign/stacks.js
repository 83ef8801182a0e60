// The stacks, the commands of their apps, and their known limitations.

import { execFileSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import path from "node:path";

const here = import.meta.dirname;
const { PYTHON, CHROMIUM, FIREFOX, STR0M, PION } = process.env;

/** Debian's Python, because PyGObject is a Debian package. */
const SYSTEM_PYTHON = "/usr/bin/python3";

const app = (name) => path.join(here, "apps", name);
const npm = (name) => JSON.parse(readFileSync(path.join(here, "node_modules", name, "package.json"))).version;
const text = (command, ...args) => execFileSync(command, args, { encoding: "utf8" }).trim();
const node = (...args) => [process.execPath, app(args[0]), ...args.slice(1)];

/** `decodes`: it reports decoded pictures; `survives`, `hostile`, `relays`: it is tested in cases.js, in hostile.js and in
 * the rows with only relayed candidates; `refuses`: it has no H.264, like Firefox without the plugin that it downloads.
 * `mute`: why its data channel does not open as the Mac or the phone; `limits`: rows of the table that fail, by name, with
 * the reason, or with the reason why they fail `atTimes`. */
export const STACKS = [
  {
    name: "aiortc", decodes: true, survives: true, hostile: true, relays: true, command: [PYTHON, app("aiortc_app.py")],
    version: text(PYTHON, "-c", "import importlib.metadata as m; print(m.version('aiortc'))"),
    limits: {
      "mac-restart": "it does not restart ICE, and `send` starts a new connection",
      "phone-restart": "it does not restart ICE",
    },
  },
  {
    name: "werift", survives: true, command: node("werift.js"), version: npm("werift"),
    // werift's lib/index.mjs:16968 (`isServer`) and rtc's peer_connection/handler/sctp.rs:705.
    mute: { mac: "werift 0.25.2 waits for SCTP's INIT when it is ICE controlled, `rtc` 0.21.1 when it is the DTLS server" },
    limits: {},
  },
  {
    name: "libdatachannel", survives: true, command: node("datachannel.js"),
    version: `node-datachannel ${npm("node-datachannel")}`,
    limits: {
      "mac-loss": "it does not request retransmissions",
      "mac-restart": "it does not restart ICE, and `send` starts a new connection",
      "phone-restart": "it does not restart ICE",
    },
  },
  {
    name: "gstreamer", relays: true, command: node("engine.js", SYSTEM_PYTHON, app("gstreamer_app.py")),
    version: text(SYSTEM_PYTHON, app("gstreamer_app.py"), "--version").replace("GStreamer ", ""), limits: {
      "mac-loss": { atTimes: "it requests many retransmissions too late, with regular RTCP" },
      "mac-restart": { atTimes: "its SCTP is silent for more than 10 s after the outage, and `send` starts a new connection" },
      "phone-restart": "it does not restart ICE",
    },
  },
  {
    name: "str0m", command: node("engine.js", STR0M),
    version: /str0m = \{ version = "=([\d.]+)"/.exec(readFileSync(path.join(here, "apps/str0m/Cargo.toml"), "utf8"))[1],
    limits: {},
  },
  {
    name: "pion", survives: true, relays: true, command: node("engine.js", PION),
    version: text("dpkg-query", "--show", "--showformat=${source:Upstream-Version}", "golang-github-pion-webrtc.v3-dev"),
    limits: {},
  },
  {
    name: "chromium", decodes: true, survives: true, command: node("browser.js", "chromium"),
    version: text(CHROMIUM, "--version").replace("Chromium ", ""), limits: {},
  },
  {
    name: "firefox", refuses: true, command: node("browser.js", "firefox"),
    version: existsSync(FIREFOX) ? text(FIREFOX, "--version").replace("Mozilla Firefox ", "") : "none", limits: {},
  },
];
