// The display: keyframes, connection, plots, text messages and the log.
// It is independent of the data source: a source (recv.js, pair.js) calls its methods and sets `on`.
// Received data is inserted as text only. Times are seconds since 1970.

import { Plot, SPAN } from "./plot.js";

const STRIP = 24;
const LINES = 200;

/** Window over which rates are averaged, and the minimum to show one, seconds. */
const RATE_WINDOW = 10;
const RATE_MINIMUM = 4;

/** Number of hash digits shown; the tooltip has all of them. */
const HASH_SHOWN = 12;

const NONE = "–";
const byId = (id) => document.getElementById(id);
const put = (id, text) => {
  const element = byId(id);
  if (element.textContent !== text) element.textContent = text;
};
const known = (value, write) => (value === null || value === undefined ? NONE : write(value));
const whole = (value) => value.toLocaleString("en-US");
const short = (value) => value.toLocaleString("en-US", { maximumSignificantDigits: 3 });
const ms = (value) => `${short(Number(value.toFixed(2)))} ms`;
const kilobytes = (value) => `${short(Number((value / 1e3).toFixed(2)))} KB`;
const perSecond = (value) => `${kilobytes(value)}/s`;
const bitrate = (value) => (value < 999_500 ? `${whole(Math.round(value / 1e3))} kbit/s` : `${short(value / 1e6)} Mbit/s`);
const timeOfDay = (at) => new Date(at * 1e3).toLocaleTimeString("en-GB");

function humanBytes(bytes) {
  const [size, unit] = [[1e9, "GB"], [1e6, "MB"], [1e3, "KB"]].find(([size]) => bytes >= size) ?? [1, "bytes"];
  return `${short(bytes / size)} ${unit}`;
}

function ago(seconds) {
  if (seconds < 60) return `${seconds.toFixed(1)} s ago`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min ${Math.floor(seconds % 60)} s ago`;
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min ago`;
}

/** Everything on the page except the join form. */
export class View {
  /** Actions of the user; each throws if it fails. */
  on = { say: async () => {}, keyframeNow: async () => {} };
  /** How far this browser's clock is ahead of the source's, seconds. */
  ahead = 0;

  constructor() {
    const plot = (options) => {
      const created = new Plot(options);
      byId("plots").append(created.element);
      return created;
    };
    const inOut = ["in", "out"];
    this.plots = {
      rtt: plot({ title: "RTT", series: [""], format: ms, least: 1 }),
      video: plot({ title: "Video, mean of 10 s", series: inOut, format: perSecond, least: 1000 }),
      data: plot({ title: "Data, mean of 10 s", series: inOut, format: perSecond, least: 100 }),
      size: plot({ title: "Keyframe size", series: [""], format: kilobytes, least: 1000, dots: true }),
      latency: plot({ title: "Latency, capture to complete", series: [""], format: ms, least: 1, dots: true }),
    };
    this.limit(100_000);
    this.listen();
    this.reset();
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    setInterval(() => this.tick(), calm ? 1000 : 100);
    setInterval(() => this.draw(), 1000);
    addEventListener("resize", () => this.draw());
  }

  listen() {
    byId("newest").onclick = () => {
      this.open(null);
      byId("strip").querySelector("[tabindex='0']")?.focus();
    };
    byId("keyframe-now").onclick = () => this.perform("keyframe-result", "requested", "not requested", this.on.keyframeNow);
    byId("say").onsubmit = async (event) => {
      event.preventDefault();
      const input = byId("say-text");
      const text = input.value.trim();
      if (text === "" || !await this.perform("say-result", "sent", "not sent", () => this.on.say(text))) return;
      this.text(text, this.now(), "you");
      input.value = "";
    };
    byId("strip").onkeydown = (event) => this.move(event);
    byId("large").onerror = () => this.picture(null, `The picture of keyframe ${this.shown?.seq} is no longer available`);
  }

  /** Performs an action and shows its result. */
  async perform(output, done, failed, act) {
    put(output, "");
    try {
      put(output, await act() ?? done);
      return true;
    } catch (error) {
      put(output, `${failed}: ${error.message}`);
      return false;
    }
  }

  /** Clears the display. */
  reset() {
    this.keyframes?.forEach(release);
    Object.assign(this, { keyframes: [], reports: [], opened: null, shown: null, over: null, ahead: 0 });
    this.slowest = Infinity;
    for (const id of ["strip", "texts", "log"]) byId(id).replaceChildren();
    for (const element of document.querySelectorAll(".facts dd")) element.textContent = NONE;
    for (const id of ["say-result", "keyframe-result"]) put(id, "");
    this.findings([]);
    this.banner(null);
    this.show();
    this.draw();
  }

  /** The name of the peer. */
  set other(name) {
    put("other", name);
    this.otherName = name;
  }

  /** One line about the source. */
  about(text) {
    put("about", text);
  }

  /** Enables or disables sending to the peer. */
  enable(able) {
    for (const id of ["say-text", "say-button", "keyframe-now"]) byId(id).disabled = !able;
  }

  /** Sets the maximum keyframe size. */
  limit(bytes) {
    if (bytes > 0) this.plots.size.mark = { value: bytes, name: kilobytes(bytes) };
  }

  /** Shows the state in a few words; `tone` is good, wait or bad. */
  state(text, tone = text === "connected" ? "good" : "wait") {
    put("state", text);
    byId("state").dataset.tone = tone;
    if (this.keyframes.length === 0) this.show();
  }

  /** Shows an important message, or hides it (null). */
  banner(text) {
    put("banner", text ?? "");
    byId("banner").hidden = text === null;
  }

  /** The source has ended. */
  end(text) {
    this.enable(false);
    this.over = this.now();
    this.state("ended", "bad");
    this.banner(text);
  }

  now() {
    return Date.now() / 1e3 - this.ahead;
  }

  /** Estimates the source's clock from its time `at` in an event: the fastest event gives the best estimate. */
  syncClock(at) {
    this.slowest = Math.min(this.slowest, Date.now() / 1e3 - at);
    this.ahead = this.slowest;
  }

  /** Adds a keyframe, or more details of one with the same `seq`. */
  keyframe(keyframe) {
    const same = this.keyframes.find(({ seq }) => seq === keyframe.seq);
    if (same) {
      Object.assign(same, keyframe);
      if (same === this.shown) this.facts(same);
      return;
    }
    // Pictures are encoded asynchronously, so a later one may arrive first.
    const after = this.keyframes.findLastIndex(({ seq }) => seq < keyframe.seq) + 1;
    this.keyframes.splice(after, 0, keyframe);
    this.thumb(keyframe);
    this.show();
    const over = this.keyframes.length - STRIP - 1;
    if (over >= 0) release(this.keyframes[over]);
    this.keyframes = this.keyframes.filter(
      ({ receivedAt }, index) => index > over || receivedAt > this.now() - SPAN,
    );
  }

  thumb(keyframe) {
    const item = document.createElement("li");
    const button = document.createElement("button");
    button.dataset.seq = keyframe.seq;
    button.onclick = () => this.open(keyframe);
    if (keyframe.url) {
      const image = new Image();
      Object.assign(image, { src: keyframe.url, alt: `Keyframe ${keyframe.seq}`, decoding: "async" });
      image.onerror = () => image.replaceWith("unavailable");
      button.append(image);
    }
    const number = document.createElement("span");
    number.textContent = keyframe.url ? `${keyframe.seq}` : `${keyframe.seq}: no picture`;
    button.append(number);
    item.append(button);
    const strip = byId("strip");
    const earlier = [...strip.children].find((other) => Number(other.firstChild.dataset.seq) < keyframe.seq);
    strip.insertBefore(item, earlier ?? null);
    while (strip.children.length > STRIP) {
      const focused = strip.lastChild.contains(document.activeElement);
      strip.lastChild.remove();
      if (focused) strip.lastChild.firstChild.focus();
    }
  }

  /** Arrow keys, Home and End navigate the strip. */
  move(event) {
    const buttons = [...byId("strip").querySelectorAll("button")];
    const at = buttons.indexOf(document.activeElement);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: buttons.length - 1 }[event.key];
    if (to === undefined || at < 0) return;
    event.preventDefault();
    buttons[to]?.focus();
    buttons[to]?.click();
  }

  /** Shows one keyframe large; for the latest one, or null, the display follows new ones. */
  open(keyframe) {
    this.opened = keyframe === this.keyframes.at(-1) ? null : keyframe;
    this.show();
  }

  show() {
    const keyframe = this.opened ?? this.keyframes.at(-1) ?? null;
    put("picture-title", this.opened ? `Keyframe ${keyframe.seq}` : "Latest keyframe");
    byId("newest").hidden = this.opened === null;
    byId("strip-none").hidden = keyframe !== null;
    for (const button of byId("strip").querySelectorAll("button")) {
      const current = Number(button.dataset.seq) === keyframe?.seq;
      button.tabIndex = current ? 0 : -1;
      button.ariaCurrent = current ? "true" : null;
    }
    if (keyframe === null) this.picture(null, `No keyframe yet: ${byId("state").textContent}`);
    if (keyframe === null || keyframe === this.shown) return;
    this.shown = keyframe;
    this.picture(keyframe.url, `No picture: ${keyframe.undecoded ?? "not available"}`);
    this.facts(keyframe);
  }

  picture(url, instead) {
    const large = byId("large");
    large.hidden = url === null;
    byId("placeholder").hidden = url !== null;
    put("placeholder", instead);
    if (url === null) large.removeAttribute("src");
    else large.src = url;
  }

  /** Resolves when all pictures have loaded or failed. */
  pictures() {
    const settled = [...document.images].filter((image) => !image.complete).map((image) => new Promise((done) => {
      image.addEventListener("load", done);
      image.addEventListener("error", done);
    }));
    return Promise.all(settled);
  }

  facts(keyframe) {
    const { seq, width, height, receivedAt } = keyframe;
    const dimensions = width && height ? `${width} × ${height}` : NONE;
    byId("large").alt = `Keyframe ${seq}, ${dimensions}, of ${timeOfDay(receivedAt)}`;
    put("seq", `${seq}`);
    put("size", known(keyframe.bytes, (bytes) => `${whole(bytes)} bytes`));
    put("dimensions", dimensions);
    put("latency", known(keyframe.latencyMs, ms));
    put("verified", known(keyframe.verified, (same) => (same ? "verified" : "hash mismatch"))
      .replace(NONE, "not checked"));
    put("sha256", known(keyframe.sha256, (hash) => `${hash.slice(0, HASH_SHOWN)}…`));
    byId("sha256").title = keyframe.sha256 ?? "";
    byId("verified").dataset.tone = { true: "good", false: "bad" }[keyframe.verified] ?? "";
    put("packets", known(keyframe.packets, whole));
    put("retransmitted", known(keyframe.retransmitted, whole));
    this.delivery(keyframe);
    this.tick();
  }

  /** Shows how a keyframe was delivered, if known. */
  delivery({ bytes, maxBytes, receiveMs, delivery }) {
    if (bytes && maxBytes) put("size", `${whole(bytes)} bytes, ${Math.round(bytes / maxBytes * 100)} % of ${kilobytes(maxBytes)}`);
    put("spread", known(receiveMs, ms));
    const { bitsPerSecond, path, limitedBy, sure } = delivery ?? {};
    const capacity = path ? ` of ${path.atLeast ? "at least " : ""}${bitrate(path.bitsPerSecond)}` : "";
    put("rate", known(bitsPerSecond, (value) => bitrate(value) + capacity));
    const likely = sure || limitedBy === "unknown" ? "" : ", likely";
    put("limited", known(limitedBy, (value) => (value === "none" ? "nothing" : value + likely)));
  }

  /** Shows findings about the delivery of keyframes, with remedies. */
  findings(findings) {
    const list = byId("findings");
    const content = JSON.stringify(findings);
    if (this.shownFindings === content) return;
    this.shownFindings = content;
    list.hidden = findings.length === 0;
    list.replaceChildren(...findings.map(({ message, remedy }) => {
      const item = document.createElement("li");
      item.textContent = `${message}. Try: ${remedy}.`;
      return item;
    }));
  }

  /** Updates the age, which is not in a live region. */
  tick() {
    if (this.shown) put("age", ago(Math.max(0, this.now() - this.shown.receivedAt)));
  }

  /** Shows the state of the connection, once a second. */
  report(report) {
    const { at, video, data } = report;
    this.state(report.state);
    const before = this.reports.findLast((other) => other.at <= at - RATE_WINDOW) ?? this.reports[0];
    const rate = (of, direction) => {
      const grown = before ? report[of][direction] - before.report[of][direction] : -1;
      return grown < 0 || at - before.at < RATE_MINIMUM ? null : grown / (at - before.at);
    };
    const rates = Object.fromEntries(["video", "data"].map(
      (of) => [of, [rate(of, "received"), rate(of, "sent")]],
    ));
    this.reports.push({ at, report, rates });
    this.reports = this.reports.filter((other) => other.at > at - SPAN - RATE_WINDOW);

    this.findings(report.findings ?? []);
    put("type", known(report.connectionType, String));
    put("rtt", known(report.rttMs, ms));
    const over = report.frameRateOver ?? "last 8 keyframes";
    put("frame-rate", known(report.frameRate, (value) => `${value.toFixed(2)} per s, ${over}`));
    put("keyframes", known(report.keyframes, whole));
    put("checked", [report.verified, report.broken].map((count) => known(count, whole)).join(" / "));
    put("video-in", humanBytes(video.received));
    put("video-out", humanBytes(video.sent));
    put("data-in", humanBytes(data.received));
    put("data-out", humanBytes(data.sent));
  }

  draw() {
    const now = this.over ?? this.now();
    const reported = (values) => this.reports.map(({ at, report, rates }) => ({ at, values: values(report, rates) }));
    const framed = (name) => this.keyframes.map((keyframe) => (
      { at: keyframe.receivedAt, values: [keyframe[name] ?? null] }
    ));
    this.plots.rtt.draw(now, reported(({ rttMs }) => [rttMs ?? null]));
    this.plots.video.draw(now, reported((_, { video }) => video));
    this.plots.data.draw(now, reported((_, { data }) => data));
    this.plots.size.draw(now, framed("bytes"));
    this.plots.latency.draw(now, framed("latencyMs"));
  }

  /** Adds a line to the log. */
  line(text, at = this.now()) {
    append(byId("log"), text, at);
  }

  /** Adds a text message, from the peer or from `who`. */
  text(text, at = this.now(), who = this.otherName) {
    append(byId("texts"), text, at, who);
  }
}

/** Appends to a list; keeps it scrolled to the end unless the user has scrolled up. */
function append(list, text, at, who = "") {
  const below = list.scrollHeight - list.scrollTop - list.clientHeight;
  const item = document.createElement("li");
  const time = document.createElement("time");
  time.textContent = timeOfDay(at);
  const name = document.createElement("b");
  name.textContent = who;
  item.append(time, " ", ...(who === "" ? [] : [name, " "]), text);
  list.append(item);
  while (list.children.length > LINES) list.firstChild.remove();
  if (below < 24) list.scrollTop = list.scrollHeight;
}

/** Releases a picture created on this page. */
function release({ url }) {
  if (url?.startsWith("blob:")) URL.revokeObjectURL(url);
}
