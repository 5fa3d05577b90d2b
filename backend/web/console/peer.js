// One WebRTC connection to the user's own avatar.

import { post } from "/console/gateway.js";
import { say } from "/console/words.js";

// Addresses of this machine are known at once; a network that hides them must not hold the offer up.
const GATHER_MS = 2000;

export class Peer {
  #connection = new RTCPeerConnection({ iceServers: [] });
  #media = new MediaStream();
  session = null;

  constructor(video, lost) {
    this.#connection.addTransceiver("video", { direction: "recvonly" });
    this.#connection.addTransceiver("audio", { direction: "recvonly" });
    this.#connection.addEventListener("track", event => {
      this.#media.addTrack(event.track);
      video.srcObject = this.#media;
    });
    this.#connection.addEventListener("connectionstatechange", () => {
      if (["failed", "closed", "disconnected"].includes(this.#connection.connectionState)) lost(this);
    });
  }

  async connect() {
    await this.#connection.setLocalDescription();
    await this.#gathered();
    const { sdp, type } = this.#connection.localDescription;
    const answer = await post("/webrtc/offer", { sdp, type });
    if (typeof answer.sdp !== "string") throw new Error(say("noVideo"));
    this.session = answer.sessionid;
    await this.#connection.setRemoteDescription({ sdp: answer.sdp, type: answer.type });
    if (this.session) await post("/sessionid", { sessionid: this.session });
  }

  hush() {
    return post("/webrtc/interrupt_talk", { sessionid: this.session });
  }

  close() {
    this.#connection.close();
  }

  #gathered() {
    const connection = this.#connection;
    if (connection.iceGatheringState === "complete") return Promise.resolve();
    return new Promise(resolve => {
      connection.addEventListener("icegatheringstatechange", () => {
        if (connection.iceGatheringState === "complete") resolve();
      });
      setTimeout(resolve, GATHER_MS);
    });
  }
}
