// What is shown: keyframes, how the connection is, plots, texts and the log.
// It does not know where all that comes from: a source (recv.js, pair.js) calls its methods and
// sets `on`. Everything that was received is put in as text. Times are seconds since 1970.

import { Plot, SPAN } from "./plot.js";

const STRIP = 24;
const LINES = 200;

/** Rates are means over this time, with some keyframes in it, and told after the least, seconds. */
const RATE_OVER = 10;
const RATE_LEAST = 4;

/** Digits of a hash that are shown; all of them are in its tooltip. */
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

function humane(bytes) {
  const [size, unit] = [[1e9, "GB"], [1e6, "MB"], [1e3, "KB"]].find(([size]) => bytes >= size) ?? [1, "bytes"];
  return `${short(bytes / size)} ${unit}`;
}

function ago(seconds) {
  if (seconds < 60) return `${seconds.toFixed(1)} s ago`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min ${Math.floor(seconds % 60)} s ago`;
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min ago`;
}

/** Everything on the page but the form to join. */
export class View {
  /** What the person asks for: each may throw why it could not be done. */
  on = { say: async () => {}, keyframeNow: async () => {} };
  /** How far this browser's clock is ahead of the source's, seconds. */
  ahead = 0;

  constructor() {
    const plot = (options) => {
      const made = new Plot(options);
      byId("plots").append(made.element);
      return made;
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
    byId("keyframe-now").onclick = () => this.ask("keyframe-result", "asked", "not asked", this.on.keyframeNow);
    byId("say").onsubmit = async (event) => {
      event.preventDefault();
      const input = byId("say-text");
      const text = input.value.trim();
      if (text === "" || !await this.ask("say-result", "sent", "not sent", () => this.on.say(text))) return;
      this.text(text, this.now(), "you");
      input.value = "";
    };
    byId("strip").onkeydown = (event) => this.move(event);
    byId("large").onerror = () => this.picture(null, `The picture of keyframe ${this.shown?.seq} is gone`);
  }

  /** Does what was asked and says how it went. */
  async ask(output, done, not, act) {
    put(output, "");
    try {
      put(output, await act() ?? done);
      return true;
    } catch (error) {
      put(output, `${not}: ${error.message}`);
      return false;
    }
  }

  /** Begins anew, with nothing to show. */
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

  /** What the other side is called. */
  set other(name) {
    put("other", name);
    this.otherName = name;
  }

  /** One line about the source. */
  about(text) {
    put("about", text);
  }

  /** Whether the other side can be told something. */
  enable(able) {
    for (const id of ["say-text", "say-button", "keyframe-now"]) byId(id).disabled = !able;
  }

  /** The size a keyframe should keep to. */
  limit(bytes) {
    if (bytes > 0) this.plots.size.mark = { value: bytes, name: kilobytes(bytes) };
  }

  /** How it is, in a few words; `tone` is good, wait or bad. */
  state(text, tone = text === "connected" ? "good" : "wait") {
    put("state", text);
    byId("state").dataset.tone = tone;
    if (this.keyframes.length === 0) this.show();
  }

  /** Something that must be seen, or null. */
  banner(text) {
    put("banner", text ?? "");
    byId("banner").hidden = text === null;
  }

  /** Nothing more will come. */
  end(text) {
    this.enable(false);
    this.over = this.now();
    this.state("ended", "bad");
    this.banner(text);
  }

  now() {
    return Date.now() / 1e3 - this.ahead;
  }

  /** The source's clock stood at `at` when it told something: what came fastest is nearest to it. */
  heard(at) {
    this.slowest = Math.min(this.slowest, Date.now() / 1e3 - at);
    this.ahead = this.slowest;
  }

  /** A keyframe, or more about one that is known by its `seq`. */
  keyframe(keyframe) {
    const same = this.keyframes.find(({ seq }) => seq === keyframe.seq);
    if (same) {
      Object.assign(same, keyframe);
      if (same === this.shown) this.facts(same);
      return;
    }
    // Pictures are made at their own pace: a later one may be there first.
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
      image.onerror = () => image.replaceWith("gone");
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

  /** Arrows, Home and End go through the strip. */
  move(event) {
    const buttons = [...byId("strip").querySelectorAll("button")];
    const at = buttons.indexOf(document.activeElement);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: buttons.length - 1 }[event.key];
    if (to === undefined || at < 0) return;
    event.preventDefault();
    buttons[to]?.focus();
    buttons[to]?.click();
  }

  /** Shows one keyframe large; the newest one, or null, follows what comes. */
  open(keyframe) {
    this.opened = keyframe === this.keyframes.at(-1) ? null : keyframe;
    this.show();
  }

  show() {
    const keyframe = this.opened ?? this.keyframes.at(-1) ?? null;
    put("picture-title", this.opened ? `Keyframe ${keyframe.seq}` : "Newest keyframe");
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
    this.picture(keyframe.url, `No picture: ${keyframe.undecoded ?? "it is not there"}`);
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

  /** When no picture is on its way any more. */
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
    put("verified", known(keyframe.verified, (same) => (same ? "verified" : "hash differs"))
      .replace(NONE, "not verified"));
    put("sha256", known(keyframe.sha256, (hash) => `${hash.slice(0, HASH_SHOWN)}…`));
    byId("sha256").title = keyframe.sha256 ?? "";
    byId("verified").dataset.tone = { true: "good", false: "bad" }[keyframe.verified] ?? "";
    put("packets", known(keyframe.packets, whole));
    put("retransmitted", known(keyframe.retransmitted, whole));
    this.delivery(keyframe);
    this.tick();
  }

  /** How a keyframe was delivered, as far as the source knows. */
  delivery({ bytes, maxBytes, receiveMs, delivery }) {
    if (bytes && maxBytes) put("size", `${whole(bytes)} bytes, ${Math.round(bytes / maxBytes * 100)} % of ${kilobytes(maxBytes)}`);
    put("spread", known(receiveMs, ms));
    const { bitsPerSecond, path, limitedBy, sure } = delivery ?? {};
    const carries = path ? ` of ${path.atLeast ? "at least " : ""}${bitrate(path.bitsPerSecond)}` : "";
    put("rate", known(bitsPerSecond, (value) => bitrate(value) + carries));
    const likely = sure || limitedBy === "unknown" ? "" : ", likely";
    put("limited", known(limitedBy, (value) => (value === "none" ? "nothing" : value + likely)));
  }

  /** What is found of the delivery of keyframes, and what to try. */
  findings(findings) {
    const list = byId("findings");
    const said = JSON.stringify(findings);
    if (this.said === said) return;
    this.said = said;
    list.hidden = findings.length === 0;
    list.replaceChildren(...findings.map(({ message, remedy }) => {
      const item = document.createElement("li");
      item.textContent = `${message}. Try: ${remedy}.`;
      return item;
    }));
  }

  /** The age goes on by itself; it is in no live region. */
  tick() {
    if (this.shown) put("age", ago(Math.max(0, this.now() - this.shown.receivedAt)));
  }

  /** How the connection is, once a second. */
  report(report) {
    const { at, video, data } = report;
    this.state(report.state);
    const before = this.reports.findLast((other) => other.at <= at - RATE_OVER) ?? this.reports[0];
    const rate = (of, way) => {
      const grown = before ? report[of][way] - before.report[of][way] : -1;
      return grown < 0 || at - before.at < RATE_LEAST ? null : grown / (at - before.at);
    };
    const rates = Object.fromEntries(["video", "data"].map(
      (of) => [of, [rate(of, "received"), rate(of, "sent")]],
    ));
    this.reports.push({ at, report, rates });
    this.reports = this.reports.filter((other) => other.at > at - SPAN - RATE_OVER);

    this.findings(report.findings ?? []);
    put("type", known(report.connectionType, String));
    put("rtt", known(report.rttMs, ms));
    const over = report.frameRateOver ?? "last 8 keyframes";
    put("frame-rate", known(report.frameRate, (value) => `${value.toFixed(2)} per s, ${over}`));
    put("keyframes", known(report.keyframes, whole));
    put("checked", [report.verified, report.broken].map((count) => known(count, whole)).join(", "));
    put("video-in", humane(video.received));
    put("video-out", humane(video.sent));
    put("data-in", humane(data.received));
    put("data-out", humane(data.sent));
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

  /** A line for the log. */
  line(text, at = this.now()) {
    append(byId("log"), text, at);
  }

  /** A text that came; with `who` one of somebody else. */
  text(text, at = this.now(), who = this.otherName) {
    append(byId("texts"), text, at, who);
  }
}

/** Newest last; stays at the end unless somebody reads further up. */
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

/** A picture made on this page is given back. */
function release({ url }) {
  if (url?.startsWith("blob:")) URL.revokeObjectURL(url);
}
