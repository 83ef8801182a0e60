// This browser as the Mac or the phone of a pair: the join form, and the session that connects signaling, the
// call and the pictures with the view.

import { Call } from "./call.js";
import { PictureReceiver, PictureSender } from "./pictures.js";
import { Signaling } from "./signaling.js";
import { summary } from "./stats.js";

const DEV_LOGIN = "dev";

/** Window over which the frame rate is averaged, seconds. */
const RATE_WINDOW = 30;

const byId = (id) => document.getElementById(id);

/** Shows the join form; the view shows the session. */
export function start(view, mode) {
  const form = byId("join");
  const { role, device, login } = form.elements;
  let joined = null;

  view.about(`serve ${mode.version}${mode.dev ? `, pair ${mode.pair}, development mode` : ""}`);
  view.state("not joined");
  byId("joining").hidden = false;

  const adapt = () => {
    for (const element of form.querySelectorAll(".phone")) element.hidden = role.value !== "phone";
    if (mode.devices) device.value = mode.devices[role.value];
  };
  for (const choice of role) choice.onchange = adapt;
  if (mode.dev) Object.assign(login, { type: "text", value: DEV_LOGIN });
  adapt();
  prefill(form, adapt);

  const setBusy = (busy) => {
    const [join, leaving] = [byId("join-button"), byId("leave-button")];
    const focused = [join, leaving].includes(document.activeElement);
    for (const element of form.elements) element.disabled = busy;
    leaving.disabled = !busy;
    if (focused) (busy ? leaving : join).focus();
  };
  const leave = (reason, tone) => {
    joined?.leave();
    joined = null;
    setBusy(false);
    view.enable(false);
    view.state(reason, tone);
  };

  form.onsubmit = async (event) => {
    event.preventDefault();
    byId("join-result").textContent = "";
    view.reset();
    const settings = {
      role: role.value,
      deviceId: device.value.trim(),
      login: login.value.trim(),
      source: form.elements.source.value,
      intervalMs: Math.round(1e3 * form.elements.interval.valueAsNumber),
    };
    setBusy(true);
    view.state("joining");
    const session = new PairSession(view, mode, settings, (reason) => {
      if (joined !== session) return;
      leave("ended", "bad");
      view.line(reason);
      view.banner(reason);
    });
    joined = session;
    try {
      await session.begin();
    } catch (error) {
      if (joined !== session) return;
      leave("not joined", "bad");
      byId("join-result").textContent = error.message;
    }
  };
  byId("leave-button").onclick = () => leave("left");
  addEventListener("pagehide", () => joined && leave("left"));
}

/**
 * Fills the form from the URL fragment of a `serve --lan` QR code, and removes the fragment from the address bar
 * because it contains the login.
 */
function prefill(form, adapt) {
  const given = new URLSearchParams(location.hash.slice(1));
  if (!given.has("login")) return;
  const { role, device, login } = form.elements;
  if (["phone", "mac"].includes(given.get("device"))) role.value = given.get("device");
  adapt();
  if (given.has("device")) device.value = given.get("device");
  login.value = given.get("login");
  history.replaceState(null, "", location.pathname);
}

/** One session in a room. */
class PairSession {
  constructor(view, mode, settings, ended) {
    Object.assign(this, { view, mode, settings, ended });
    this.phone = settings.role === "phone";
    this.state = "joining";
    this.receivedTimes = [];
    /** The latest byte counts, their peer connection, and the totals of earlier ones. */
    this.last = { pc: null, video: { sent: 0, received: 0 }, data: { sent: 0, received: 0 } };
    this.earlier = { video: this.last.video, data: this.last.data };
    view.other = this.phone ? "Mac" : "phone";
  }

  async begin() {
    const { view, settings } = this;
    this.pictures = this.phone
      ? new PictureSender(byId("canvas"), this.countingView(), settings)
      : new PictureReceiver(byId("video"), this.countingView(), () => this.call.control.clockOffset?.seconds ?? null);
    if (this.phone) await this.pictures.open();
    if (this.over) {
      this.pictures.end();
      return;
    }
    this.signaling = new Signaling(this.mode, settings, {
      opened: () => this.call.opened(),
      message: (message) => this.call.onMessage(message),
      line: (text) => view.line(text),
      ended: (reason) => this.ended(reason),
    });
    this.call = new Call({
      offers: this.phone,
      other: this.phone ? "Mac" : "phone",
      send: (t, fields) => this.signaling.send(t, fields),
      iceServers: () => this.signaling.iceServers,
      on: this.handlers(),
    });
    view.on.say = (text) => this.call.control.say(text);
    view.on.keyframeNow = async () => {
      if (this.phone) await this.pictures.now();
      else this.call.control.send({ t: "keyframe-request", reason: "requested on the page" });
      return this.phone ? "sent" : "requested";
    };
    this.reporting = setInterval(() => this.report(), 1000);
    this.signaling.run();
  }

  /** The view, with keyframes counted. */
  countingView() {
    return {
      keyframe: (keyframe) => {
        if (this.over) return;
        if (keyframe.url !== undefined) this.receivedTimes.push(keyframe.receivedAt);
        this.view.keyframe(keyframe);
      },
    };
  }

  handlers() {
    const { view } = this;
    return {
      line: (text) => view.line(text),
      text: (text) => view.text(text),
      state: (text) => {
        if (text !== this.state) view.line(text);
        if (text === "connected" && this.phone) this.pictures.begin();
        this.state = text;
        view.state(text);
      },
      pc: (pc) => this.pictures.follow(pc),
      dropped: () => {
        if (this.phone) this.pictures.pause();
        view.enable(false);
      },
      channel: (open) => view.enable(open),
      keyframe: (message) => {
        if (!this.phone) this.pictures.announce(message);
      },
      keyframeRequest: () => {
        if (this.phone) this.pictures.now().catch((error) => view.line(error.message));
      },
      set: (message) => {
        if (!this.phone) throw new Error("only the phone has settings");
        this.pictures.set(message);
      },
    };
  }

  async report() {
    const { pc } = this.call;
    const counted = await summary(pc);
    if (this.over || pc !== this.call.pc) return;
    this.pictures.poll(counted);
    const at = Date.now() / 1e3;
    const { connectionType, rttMs } = counted;
    this.view.report({
      at, connectionType,
      ...this.sums(pc, counted),
      state: this.state,
      rttMs: this.call.control.rttMs ?? rttMs,
      frameRate: this.frameRate(at),
      frameRateOver: `last ${RATE_WINDOW} s`,
      keyframes: this.receivedTimes.length,
      verified: null,
      broken: null,
    });
  }

  /** Bytes over all peer connections of the session, including closed ones. */
  sums(pc, counted) {
    const add = (one, other) => ({ sent: one.sent + other.sent, received: one.received + other.received });
    const { last } = this;
    if (pc !== last.pc) {
      this.earlier = { video: add(this.earlier.video, last.video), data: add(this.earlier.data, last.data) };
    }
    this.last = { pc, video: counted.video, data: counted.data };
    return { video: add(this.earlier.video, counted.video), data: add(this.earlier.data, counted.data) };
  }

  /** Keyframes per second in the window; null with fewer than two. */
  frameRate(at) {
    const times = this.receivedTimes.filter((time) => time > at - RATE_WINDOW);
    const over = times.at(-1) - times[0];
    return times.length > 1 && over > 0 ? (times.length - 1) / over : null;
  }

  leave() {
    if (this.over) return;
    this.over = true;
    clearInterval(this.reporting);
    this.signaling?.leave("left");
    this.call?.close();
    this.pictures?.end();
  }
}
