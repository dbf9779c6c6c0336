// Does what the reflector says: opens peer connections, gives them candidates, tells what the browser tells. Every
// conclusion is drawn by the reflector; here is only WebRTC and the page.
"use strict";

const PATIENCE_MS = 1000; // for the browser to name its own candidates
const peers = new Map();
let socket = null;

const $ = (id) => document.getElementById(id);

// --- peer connections --------------------------------------------------------------------------------------------------

async function open(name) {
  const pc = new RTCPeerConnection();
  peers.set(name, pc);
  pc.createDataChannel("natprobe");
  const hosts = gathered(pc);
  pc.addEventListener("iceconnectionstatechange", () => connected(name, pc));
  await pc.setLocalDescription();
  const sdp = pc.localDescription.sdp;
  return { name, ufrag: field(sdp, "ice-ufrag"), password: field(sdp, "ice-pwd"), hosts: await hosts };
}

function field(sdp, name) {
  return sdp.match(new RegExp(`^a=${name}:(\\S+)`, "m"))[1];
}

// The browser's own UDP candidates. Most browsers hide the address behind a name that ends in .local.
function gathered(pc) {
  const hosts = [];
  return new Promise((resolve) => {
    const enough = () => resolve(hosts.slice(0, 8));
    pc.addEventListener("icecandidate", ({ candidate }) => {
      if (!candidate) {
        enough();
      } else if (candidate.protocol === "udp" && candidate.type === "host") {
        const address = candidate.address || "";
        hosts.push([address.endsWith(".local") || !address ? null : address, candidate.port]);
      }
    });
    setTimeout(enough, PATIENCE_MS);
  });
}

// The fingerprint is nobody's: the reflector never speaks DTLS, and as it would have to begin, nobody does.
async function answer({ answer: name, ufrag, password, candidates }) {
  const pc = peers.get(name);
  const mid = field(pc.localDescription.sdp, "mid");
  const lines = [
    "v=0", "o=- 1 1 IN IP4 0.0.0.0", "s=-", "t=0 0", `a=group:BUNDLE ${mid}`,
    "m=application 9 UDP/DTLS/SCTP webrtc-datachannel", "c=IN IP4 0.0.0.0", `a=mid:${mid}`,
    `a=ice-ufrag:${ufrag}`, `a=ice-pwd:${password}`, `a=fingerprint:sha-256 ${Array(32).fill("00").join(":")}`,
    "a=setup:active", "a=sctp-port:5000", ...candidates.map((line) => `a=${line}`), "",
  ];
  await pc.setRemoteDescription({ type: "answer", sdp: lines.join("\r\n") });
}

async function add({ name, candidates }) {
  for (const candidate of candidates) {
    await peers.get(name).addIceCandidate({ candidate, sdpMLineIndex: 0 });
  }
}

async function connected(name, pc) {
  if (!["connected", "completed"].includes(pc.iceConnectionState)) return;
  const stats = await pc.getStats();
  for (const pair of stats.values()) {
    if (pair.type === "candidate-pair" && pair.state === "succeeded" && pair.nominated) {
      const local = stats.get(pair.localCandidateId);
      const remote = stats.get(pair.remoteCandidateId);
      const where = remote && remote.address ? [remote.address, remote.port] : null;
      say({ type: "connected", name, local: local ? local.candidateType : "", remote: where });
      return;
    }
  }
}

async function count(name) {
  const stats = await peers.get(name).getStats();
  const sent = [];
  for (const pair of stats.values()) {
    const remote = pair.type === "candidate-pair" ? stats.get(pair.remoteCandidateId) : null;
    if (remote?.address) sent.push([remote.address, remote.port, pair.requestsSent || 0]);
  }
  say({ type: "counted", name, sent: sent.slice(0, 16) });
}

function close(name) {
  peers.get(name)?.close();
}

// --- the reflector ------------------------------------------------------------------------------------------------------

function say(message) {
  if (socket?.readyState === WebSocket.OPEN) socket.send(JSON.stringify(message));
}

async function obey(message) {
  if (message.open) say({ type: "offers", offers: await Promise.all(message.open.map(open)) });
  else if (message.answer) await answer(message);
  else if (message.candidates) await add(message);
  else if (message.count) await count(message.count);
  else if (message.close) close(message.close);
  else if (message.progress) progress(message.progress, message.value);
  else if (message.report) finished(message);
  else if (message.refused) failed(message.refused);
}

function start(query) {
  $("again").hidden = $("result").hidden = $("failure").hidden = true;
  $("start").hidden = true;
  $("progress").hidden = false;
  progress("Asking the browser for its sockets", 0.05);
  socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/visit${query}`);
  const visit = socket;
  socket.onmessage = ({ data }) => obey(JSON.parse(data)).catch((error) => failed(String(error)));
  socket.onclose = () => {
    if (visit === socket) failed("The connection to the reflector ended before the test did.");
  };
}

function end() {
  const visit = socket;
  socket = null;
  visit?.close();
  for (const pc of peers.values()) pc.close();
  peers.clear();
  $("progress").hidden = true;
}

// --- the page -----------------------------------------------------------------------------------------------------------

function progress(text, value) {
  $("step").textContent = text;
  if (value === null) $("bar").removeAttribute("value");
  else $("bar").value = value;
}

function finished({ report, html, headline }) {
  end();
  const result = $("result");
  result.innerHTML = html;
  const link = result.querySelector("#download");
  link.href = URL.createObjectURL(new Blob([JSON.stringify(report, null, 2)], { type: "application/json" }));
  result.querySelector("#lifetime")?.addEventListener("click", () => start("?lifetime"));
  result.hidden = $("again").hidden = false;
  $("step").textContent = ""; // or it would be read out again
  document.title = `${headline} · natprobe`;
  result.querySelector("h2").focus();
}

function failed(why) {
  end();
  $("why").textContent = why;
  $("failure").hidden = $("again").hidden = false;
}

function begin() {
  $("start").addEventListener("click", () => start(""));
  $("again").addEventListener("click", () => start(""));
  addEventListener("error", ({ message }) => failed(`This page has an error: ${message}`));
  addEventListener("unhandledrejection", ({ reason }) => failed(`This page has an error: ${reason}`));
  if (typeof RTCPeerConnection === "undefined") {
    failed("This browser has no WebRTC, or it is switched off: by a setting, an extension or a policy. " +
      "Without it a page cannot send the packets of the test; natprobe on the command line can.");
    $("again").hidden = true;
  } else {
    $("start").hidden = false;
  }
}

begin();
