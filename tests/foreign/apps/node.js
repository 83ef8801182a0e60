// Shared by the apps that run in Node.js: arguments, events on stdout, commands on stdin.

import { createInterface } from "node:readline";
import { parseArgs } from "node:util";
import WebSocket from "ws";

import { Room } from "./room.js";
import { App } from "./w3c.js";

const string = { type: "string" };
const boolean = { type: "boolean" };

/** `--api URL --role mac|phone --answer-after MS --unit FILE --renew --relay --talk`, and the arguments before them:
 * `unit` is the phone's picture, `relay` allows only relayed candidates, `talk` makes the app send texts. */
export function options() {
  const { values, positionals } = parseArgs({
    options: { api: string, role: string, "answer-after": string, unit: string, renew: boolean, relay: boolean, talk: boolean },
    allowPositionals: true,
  });
  return { ...values, answerAfter: Number(values["answer-after"] ?? 0), command: positionals };
}

/** Writes an event; `t` defaults to the time in ms since 1970. */
export function emit(event, fields = {}) {
  process.stdout.write(`${JSON.stringify({ t: Date.now(), event, ...fields })}\n`);
}

/** Executes `drop-signaling MS`, `restart`, `stop` (no more pictures) and `quit`. */
export function obey({ drop, restart, stop, quit }) {
  const lines = createInterface({ input: process.stdin });
  lines.on("line", (line) => {
    const [command, argument] = line.trim().split(" ");
    if (command === "drop-signaling") drop(Number(argument));
    else if (command === "restart") restart();
    else if (command === "stop") stop();
    else if (command === "quit") quit();
    else emit("error", { message: `no such command: ${line}` });
  });
}

/** The app in this process, with a stack that has the interface required by `App`. */
export async function run({ newConnection, watch = () => {}, capture }) {
  const { api, role, answerAfter, renew, talk } = options();
  const app = new App({ role, answerAfter, renew, talk, newConnection, watch, capture, emit });
  const room = new Room({
    api, device: role, WebSocket, emit,
    cut: (socket) => socket.terminate(),
    onMessage: (message) => app.onMessage(message),
  });
  obey({
    drop: (ms) => room.drop(ms),
    restart: () => app.restart(),
    stop: () => app.stop(),
    quit: () => {
      room.leave();
      setTimeout(() => process.exit(0), 200);
    },
  });
  await app.start(room);
}

process.on("unhandledRejection", (error) => emit("error", { message: String(error?.stack ?? error) }));
