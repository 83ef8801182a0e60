// Child processes whose output lines are recorded with their time, so that the output of several can be merged.

import { spawn } from "node:child_process";
import { createInterface } from "node:readline";

export const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

const running = new Set();

/** A process in its own process group, because a browser is more than one process. */
export class Child {
  /** `{ t, from, text }`, where `t` is in ms since 1970. */
  lines = [];

  constructor(name, [command, ...args]) {
    this.name = name;
    const kept = Object.entries(process.env).filter(([key]) => !key.startsWith("ORION_"));
    this.process = spawn(command, args, { env: Object.fromEntries(kept), stdio: "pipe", detached: true });
    running.add(this);
    this.process.stdin.on("error", () => {});
    for (const from of ["stdout", "stderr"]) {
      createInterface({ input: this.process[from] }).on("line", (text) => this.#add(from, text));
    }
    /** Resolves with the exit code, null when a signal ended it. */
    this.exit = new Promise((resolve) => {
      this.process.on("error", (error) => this.#add("stderr", String(error)));
      this.process.on("close", (code, signal) => {
        running.delete(this);
        this.ended = { code, t: Date.now() };
        this.#add("exit", String(code ?? signal));
        resolve(code);
      });
    });
  }

  #add(from, text) {
    this.lines.push({ t: Date.now(), from, text });
  }

  /** JSON lines on stdout, each with its time of arrival as `at`. */
  get output() {
    return this.lines.filter(({ from, text }) => from === "stdout" && text.startsWith("{"))
      .map(({ t, text }) => ({ at: t, ...JSON.parse(text) }));
  }

  get stderr() {
    return this.lines.filter(({ from }) => from === "stderr").map(({ text }) => text).join("\n");
  }

  type(line) {
    this.process.stdin.write(`${line}\n`);
  }

  /** Sends a signal to the whole group. */
  kill(signal = "SIGKILL") {
    try {
      process.kill(-this.process.pid, signal);
    } catch (error) {
      if (error.code !== "ESRCH") throw error;
    }
  }

  /** Ends it gracefully, and kills it after 5 s. */
  async stop(gracefully) {
    if (this.ended) return;
    gracefully();
    await Promise.race([this.exit, pause(5000)]);
    this.kill();
    await this.exit;
  }
}

/** Kills processes left by an interrupted run. */
export function killAll() {
  for (const child of running) child.kill();
}

/** Polls until `probe` returns a truthy value, which is the result. */
export async function until(what, ms, probe) {
  const end = Date.now() + ms;
  for (;;) {
    const found = probe();
    if (found) return found;
    if (Date.now() > end) throw new Error(`no ${what} in ${ms / 1000} s`);
    await pause(50);
  }
}
