// Pictures in and out of a peer connection: `Shown` takes each decoded picture of a track for the
// view, `Made` makes the pictures of the phone. Both tell the view each one as a keyframe.

import { summary } from "./stats.js";

const QUALITY = 0.9;

/** After this time a picture has left, ms. */
const SETTLED = 300;

/** What a received `keyframe` message may be early by, in messages. */
const ANNOUNCED = 16;

/** What a phone may be set to. */
const LIMITS = { intervalMs: [250, 600_000], width: [16, 4096], height: [16, 4096] };

const BARS = ["#bfbfbf", "#bfbf00", "#00bfbf", "#00bf00", "#bf00bf", "#bf0000", "#0000bf"];

const pictureOf = (canvas) => new Promise((resolve) => {
  canvas.toBlob((blob) => resolve(blob ? URL.createObjectURL(blob) : null), "image/jpeg", QUALITY);
});

/** What went the way `way` since the summary `before`; packets may be padding and are left out. */
const since = (before, now, way) => ({
  bytes: now.video[way] - before.video[way] || null,
  retransmitted: now.retransmitted[way] - before.retransmitted[way],
});

/**
 * The Mac: each picture of the video that comes. Where a track can be read it tells of each one at
 * once; a video element may hold one back until the next one comes, or while the page is hidden.
 */
export class Shown {
  /** `clockOffset()` tells how far the phone's clock is ahead, seconds, or null. */
  constructor(video, view, clockOffset) {
    Object.assign(this, { video, view, clockOffset });
    Object.assign(this, { seq: 0, announced: new Map(), taken: new Map(), pc: null });
    /** A picture was told of since the last poll; one without that is due at the next. */
    Object.assign(this, { decoded: 0, told: false, due: false });
    const next = (_, metadata) => {
      this.callback = video.requestVideoFrameCallback(next);
      this.takeShown(metadata);
    };
    this.callback = video.requestVideoFrameCallback?.(next);
  }

  /** A new peer connection. */
  follow(pc) {
    Object.assign(this, { pc, before: null, decoded: 0, due: false });
    pc.ontrack = ({ track, receiver }) => {
      if (track.kind !== "video") return;
      // No smoothing: pictures are seconds apart.
      if ("jitterBufferTarget" in receiver) receiver.jitterBufferTarget = 0;
      if ("MediaStreamTrackProcessor" in window) {
        this.read(track).catch(() => {});
        return;
      }
      this.video.srcObject = new MediaStream([track]);
      this.video.play().catch(() => {});
    };
  }

  /** Takes each picture of a track until that ends (W3C mediacapture-transform). */
  async read(track) {
    const reader = new MediaStreamTrackProcessor({ track }).readable.getReader();
    for (;;) {
      const { value: frame, done } = await reader.read();
      if (done) return;
      const { displayWidth: width, displayHeight: height } = frame;
      this.take(frame, width, height, frame.metadata?.());
      frame.close();
    }
  }

  /** Once a second: a picture that nothing told of (a hidden page, an old browser) is taken here. */
  poll({ framesDecoded }) {
    if (this.due && !this.told) this.takeShown();
    this.due = framesDecoded > this.decoded && !this.told;
    this.told = false;
    this.decoded = framesDecoded;
  }

  takeShown(metadata) {
    const { videoWidth, videoHeight } = this.video;
    this.take(this.video, videoWidth, videoHeight, metadata);
  }

  async take(source, width, height, { rtpTimestamp, receiveTime } = {}) {
    const { pc } = this;
    if (!pc || width === 0 || this.taken.has(rtpTimestamp)) return;
    this.told = true;
    const canvas = document.createElement("canvas");
    Object.assign(canvas, { width, height });
    canvas.getContext("2d").drawImage(source, 0, 0, width, height);
    this.seq += 1;
    const { seq } = this;
    const late = performance.now() - (receiveTime ?? NaN);
    const receivedAt = Date.now() / 1e3 - (late > 0 && late < 5000 ? late / 1e3 : 0);
    remember(this.taken, rtpTimestamp, { seq, receivedAt });
    const [url, now] = await Promise.all([pictureOf(canvas), summary(pc)]);
    const counted = since(this.before ?? await summary(null), now, "received");
    this.before = now;
    const announced = this.announced.get(rtpTimestamp);
    this.announced.delete(rtpTimestamp);
    this.view.keyframe({
      seq, url, width, height, receivedAt, verified: null, ...counted,
      ...(announced && this.detail(announced, receivedAt)),
    });
  }

  /** A `keyframe` message: it may come before its picture or after it. */
  announce(message) {
    const taken = this.taken.get(message.rtpTimestamp);
    if (taken) this.view.keyframe({ seq: taken.seq, ...this.detail(message, taken.receivedAt) });
    else remember(this.announced, message.rtpTimestamp, message);
  }

  detail({ bytes, captureTime }, receivedAt) {
    const offset = this.clockOffset();
    const latencyMs = offset === null ? null : (receivedAt - captureTime + offset) * 1e3;
    return { bytes, captureTime, latencyMs };
  }

  end() {
    this.pc = null;
    this.video.cancelVideoFrameCallback?.(this.callback);
    this.video.srcObject = null;
  }
}

function remember(map, key, value) {
  if (key === undefined) return;
  map.set(key, value);
  if (map.size > ANNOUNCED) map.delete(map.keys().next().value);
}

/** The phone: a camera or a test pattern, one picture each interval. */
export class Made {
  constructor(canvas, view, { source, intervalMs }) {
    Object.assign(this, { canvas, view, source, intervalMs });
    Object.assign(this, { seq: 0, sender: null, pc: null, before: null });
    Object.assign(canvas, { width: 1280, height: 720 });
  }

  /** Opens the camera, when it is wanted, and the stream; throws what prevents it. */
  async open() {
    if (this.source === "camera") {
      if (!navigator.mediaDevices) throw new Error("the camera needs https or localhost");
      const size = { width: { ideal: 1280 }, height: { ideal: 720 } };
      this.camera = document.createElement("video");
      Object.assign(this.camera, { muted: true, playsInline: true });
      this.camera.srcObject = await navigator.mediaDevices.getUserMedia({
        video: { ...size, facingMode: "environment" },
      });
      await this.camera.play();
      const { videoWidth: width, videoHeight: height } = this.camera;
      Object.assign(this.canvas, { width, height });
    }
    this.paint();
    this.stream = this.canvas.captureStream(0);
    [this.track] = this.stream.getVideoTracks();
    // Keeps the size of the picture when there is little bandwidth.
    this.track.contentHint = "detail";
  }

  /** A new peer connection. */
  follow(pc) {
    Object.assign(this, { pc, before: null });
    const transceiver = pc.addTransceiver(this.track, { direction: "sendonly", streams: [this.stream] });
    this.sender = transceiver.sender;
    const codecs = RTCRtpSender.getCapabilities("video").codecs.filter(
      ({ mimeType }) => mimeType.toLowerCase() === "video/h264",
    );
    if (codecs.length === 0) throw new Error("this browser has no H.264 encoder");
    // Constrained baseline with packetization mode 1 first, as the contract has it.
    const rank = ({ sdpFmtpLine = "" }) => (/packetization-mode=1/.test(sdpFmtpLine) &&
      /profile-level-id=42e01f/i.test(sdpFmtpLine) ? 0 : 1);
    transceiver.setCodecPreferences(codecs.sort((a, b) => rank(a) - rank(b)));
  }

  /** Connected: the first picture goes at once. */
  begin() {
    clearInterval(this.timer);
    const next = () => this.now().catch(() => {});
    this.timer = setInterval(next, this.intervalMs);
    next();
  }

  pause() {
    clearInterval(this.timer);
    Object.assign(this, { pc: null, before: null });
  }

  /** Makes one picture and sends it as a keyframe. */
  async now() {
    const { pc } = this;
    if (!pc) throw new Error("there is no connection");
    const before = await summary(pc);
    await this.askKeyframe();
    const receivedAt = Date.now() / 1e3;
    // Some browsers have it on the stream. The picture drawn next is the one that goes.
    (this.track.requestFrame ? this.track : this.stream).requestFrame();
    this.paint();
    this.seq += 1;
    const { seq } = this;
    const { width, height } = this.canvas;
    const url = await pictureOf(this.canvas);
    if (pc !== this.pc) return;
    Object.assign(this, { before, sent: seq });
    this.view.keyframe({ seq, url, width, height, receivedAt, captureTime: receivedAt, verified: null });
    // Its size also when nobody asks for it any more: the page may be left before the next poll.
    setTimeout(async () => {
      if (pc === this.pc && this.sent === seq) this.poll(await summary(pc));
    }, SETTLED);
  }

  /** Once a second: what the picture that is on its way took so far. */
  poll(now) {
    if (this.before) this.view.keyframe({ seq: this.sent, ...since(this.before, now, "sent") });
  }

  async askKeyframe() {
    try {
      await this.sender.setParameters(this.sender.getParameters(), { encodingOptions: [{ keyFrame: true }] });
    } catch {
      // Where it is not known, the encoder decides.
    }
  }

  /** Obeys a `set` message, or throws why not. */
  set({ intervalMs, width, height, maxBytes }) {
    if (maxBytes !== undefined) throw new Error("a browser cannot keep to maxBytes");
    for (const [name, value] of Object.entries({ intervalMs, width, height })) {
      const [least, most] = LIMITS[name];
      if (value !== undefined && !(value >= least && value <= most)) {
        throw new Error(`${name} must be from ${least} to ${most}`);
      }
    }
    Object.assign(this.canvas, { width: width ?? this.canvas.width, height: height ?? this.canvas.height });
    this.intervalMs = intervalMs ?? this.intervalMs;
    if (this.pc) this.begin();
  }

  paint() {
    const { width, height } = this.canvas;
    const context = this.canvas.getContext("2d");
    if (this.camera) {
      context.drawImage(this.camera, 0, 0, width, height);
      return;
    }
    BARS.forEach((colour, index) => {
      context.fillStyle = colour;
      context.fillRect(Math.floor(index * width / BARS.length), 0, Math.ceil(width / BARS.length), height);
    });
    const now = new Date();
    const size = Math.round(Math.min(width / 9, height / 4));
    context.fillStyle = "#101010";
    context.fillRect(0, height / 2 - size, width, size * 2);
    context.fillStyle = "#fff";
    context.font = `600 ${size}px ui-monospace, monospace`;
    context.textAlign = "center";
    context.textBaseline = "middle";
    context.fillText(now.toISOString().slice(11, 23), width / 2, height / 2, width);
    // Once round in a minute.
    context.fillRect((now % 60_000) / 60_000 * (width - size / 2), height - size / 2, size / 2, size / 2);
  }

  end() {
    this.pause();
    this.track?.stop();
    this.camera?.srcObject?.getTracks().forEach((track) => track.stop());
  }
}
