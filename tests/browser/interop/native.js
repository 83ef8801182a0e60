// A native libwebrtc (npm @roamhq/wrtc) as the phone and as the Mac. Its limitations are in native-peer.js.

import { fork } from "node:child_process";
import { readFile } from "node:fs/promises";
import path from "node:path";

import { until } from "../process.js";
import { check, fetchToken, pingBoth } from "../rig.js";
import { folder, pings, refused, stops } from "./expect.js";

const { version } = JSON.parse(await readFile(new URL("../node_modules/@roamhq/wrtc/package.json", import.meta.url), "utf8"));

/** Its name for the table. */
export const NATIVE = `native libwebrtc: \`@roamhq/wrtc\` ${version}`;

/** Starts one and has it join the room as `deviceId`; it has the same interface as a page. */
async function openNative(deviceId, { h264 = true } = {}) {
  const child = fork(path.join(import.meta.dirname, "native-peer.js"));
  const waiting = new Map();
  child.on("message", ({ id, value, error }) => {
    const { resolve, reject } = waiting.get(id);
    waiting.delete(id);
    if (error) reject(new Error(error));
    else resolve(value);
  });
  child.on("exit", () => waiting.forEach(({ reject }) => reject(new Error("the native peer is gone"))));
  let last = 0;
  const ask = (message) => new Promise((resolve, reject) => {
    waiting.set((last += 1), { resolve, reject });
    child.send({ id: last, ...message });
  });
  const call = (name, ...args) => ask({ name, args });
  const get = (name) => ask({ name });
  await call("join", { ...(await fetchToken(deviceId)), h264 });
  return {
    call, get,
    control: (what, fits) => until(what, async () => (await get("controls")).find(fits)),
    state: async () => ({ problems: await get("problems"), received: (await get("controls")).slice(-20) }),
    close: () => child.kill("SIGKILL"),
  };
}

const WRITTEN = "H.264 written into its SDP";

export const nativeRows = [
  {
    name: "native_phone", does: `phone: ${WRITTEN}, control channel`, ours: "recv", seen: "pings in both directions",
    open: () => openNative("phone"),
    peer: ["recv", "--out", folder("native_phone")],
    async body(native, recv) {
      await native.call("offer");
      await pings(native, recv);
      await stops(recv);
    },
  },
  {
    name: "native_mac", does: `Mac: ${WRITTEN}, control channel`, ours: "send", seen: "pings in both directions, keyframes are sent",
    open: () => openNative("mac"),
    peer: ["send", "--source", "pattern:320x240", "--interval", "0.3s"],
    async body(native, send) {
      await until("the peer's channel", () => native.call("hasTheirs"));
      await native.call("openChannel");
      await pings(native, send);
      await until("3 keyframes", () => send.events("keyframe").length >= 3);
      const announced = (await native.get("controls")).filter((one) => one.t === "keyframe");
      check("keyframes are announced to it", announced.length > 0, `${announced.length}`);
      await stops(send);
    },
  },
  {
    name: "native_bench", does: `phone: ${WRITTEN}, control channel`, ours: "bench --respond", seen: "pings answered",
    open: () => openNative("phone"),
    peer: ["bench", "--respond"],
    async body(native, respond) {
      await native.call("offer");
      await pingBoth(native);
      await stops(respond);
    },
  },
  {
    name: "native_data", does: "phone: only a data channel", ours: "recv", seen: "exit code 1, the error message",
    open: () => openNative("phone", { h264: false }),
    peer: ["recv", "--out", folder("native_data")],
    async body(native, recv) {
      await native.call("offer", { video: false });
      return refused(recv, /no H\.264 video/);
    },
  },
  {
    name: "native_vp8", does: "phone: its own video codecs", ours: "recv", seen: "exit code 1, the error message",
    open: () => openNative("phone", { h264: false }),
    peer: ["recv", "--out", folder("native_vp8")],
    async body(native, recv) {
      await native.call("offer");
      return refused(recv, /no H\.264 video .*VP8/);
    },
  },
  {
    name: "native_mac_vp8", does: "Mac: its own video codecs", ours: "send", seen: "exit code 1, the error message",
    open: () => openNative("mac", { h264: false }),
    peer: ["send", "--source", "pattern:320x240"],
    body: (_, send) => refused(send, /no H\.264 video/),
  },
];
