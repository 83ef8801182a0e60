// One call: a `serve`, an `orion-peer` and an app on another stack, and their counts.

import { mkdirSync, writeFileSync } from "node:fs";
import path from "node:path";

import { Child, until } from "./process.js";

const BINARY = process.env.ORION_PEER;
const LOGS = process.env.FOREIGN_LOGS;

/** Timeout of a peer's start; ends a hung test. */
const PATIENCE = 45_000;

/** Every keyframe is a separate picture of about 20 KB. */
const SMALL = ["--source", "pattern:320x240", "--interval", "1s", "--max-bytes", "20KB"];

/** Every keyframe is as large as a phone's. */
const LARGE = ["--source", "pattern:1280x720", "--interval", "0.5s", "--max-bytes", "100KB"];

export class Call {
  /** Processes, in the order they were started. */
  children = [];
  apps = [];

  constructor(stack, name, binary = BINARY) {
    Object.assign(this, { stack, name, binary });
  }

  #start(name, command) {
    const child = new Child(name, command);
    this.children.push(child);
    return child;
  }

  async serve() {
    const serve = this.#start("serve", [BINARY, "serve", "--listen", "127.0.0.1:0", "--turn-listen", "127.0.0.1:0"]);
    this.address = await until("serve", PATIENCE, () => {
      if (serve.ended) throw new Error(`serve ended: ${serve.stderr}`);
      return /listening on (\S+)/.exec(serve.stderr)?.[1];
    });
  }

  /** The app, in the room as `role`. */
  async app({ role = "mac", answerAfter = 0, unit = "", renew = false, relay = false, talk = false } = {}) {
    const flags = ["--api", `http://${this.address}`, "--role", role, "--answer-after", String(answerAfter), "--unit", unit];
    if (renew) flags.push("--renew");
    if (relay) flags.push("--relay");
    if (talk) flags.push("--talk");
    const app = this.#start(`${role}${this.apps.length + 1}`, [...this.stack.command, ...flags]);
    this.apps.push(app);
    app.events = (event) => app.output.filter((line) => line.event === event);
    app.signals = (t) => app.events("signal").filter((line) => line.what === t);
    await until(`${this.stack.name} in the room`, PATIENCE, () => {
      if (app.ended) throw new Error(`${this.stack.name} ended: ${app.stderr}`);
      return app.events("joined")[0];
    });
    return app;
  }

  /** Starts `send` or `recv`. */
  orion(command, ...args) {
    return this.orionWith(command === "send" ? SMALL : [], command, ...args);
  }

  /** Like `orion`, with pictures as large as a phone's. */
  orionLarge(command, ...args) {
    return this.orionWith(command === "send" ? LARGE : [], command, ...args);
  }

  /** Like `orion`, with these pictures. */
  orionWith(pictures, command, ...args) {
    this.peer = this.#start(command, [this.binary, command, "--json", "--signal", `ws://${this.address}`, ...pictures, ...args]);
    return this.peer;
  }

  /** The first keyframe that `app` receives. */
  keyframe(app, ms = PATIENCE) {
    return until("keyframe", ms, () => {
      if (this.peer.ended) throw new Error(`${this.peer.name} ended with ${this.peer.ended.code}`);
      return app.events("keyframe")[0];
    });
  }

  /** Keyframes sent from `from` to `to`, and how many of them the apps received. */
  count(from, to = Date.now()) {
    const sent = this.peer.output.filter(({ kind, at }) => kind === "keyframe" && at >= from && at <= to);
    const received = this.apps.flatMap((app) => app.events("keyframe"));
    const whole = new Set(received.map(({ rtpTimestamp }) => rtpTimestamp));
    const times = received.map(({ t }) => t).filter((t) => t >= from && t <= to).sort((a, b) => a - b);
    const gaps = times.slice(1).map((t, index) => t - times[index]);
    return {
      sent: sent.length,
      received: sent.filter(({ rtpTimestamp }) => whole.has(rtpTimestamp)).length,
      lost: sent.filter(({ rtpTimestamp }) => !whole.has(rtpTimestamp)).map(({ seq }) => seq),
      gap: Math.max(0, ...gaps) / 1000,
    };
  }

  /** Ends everything, and saves the output. */
  async end() {
    for (const app of this.apps) await app.stop(() => app.type("quit"));
    for (const child of this.children.toReversed()) await child.stop(() => child.process.kill("SIGINT"));
    mkdirSync(LOGS, { recursive: true });
    this.log = path.join(LOGS, `${this.stack.name}-${this.name}.log`);
    const lines = this.children.flatMap((child) => child.lines.map((line) => ({ ...line, name: child.name })));
    lines.sort((a, b) => a.t - b.t);
    const start = lines[0]?.t ?? 0;
    this.text = lines.map(({ t, name, from, text }) => `${((t - start) / 1000).toFixed(2).padStart(6)} ${name} ${from}: ${text}\n`);
    writeFileSync(this.log, this.text.join(""));
  }
}
