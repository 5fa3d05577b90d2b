// The gateway's API: one place for the token, for errors in plain words, and for streams.

import { say } from "/console/words.js";

export class Refusal extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

let token = sessionStorage.getItem("console.token");
let onExpired = () => {};

export const signedIn = () => token !== null;
export const whenExpired = act => { onExpired = act; };

function keep(value) {
  token = value;
  if (value === null) sessionStorage.removeItem("console.token");
  else sessionStorage.setItem("console.token", value);
}

async function reach(path, options = {}) {
  const headers = new Headers(options.headers);
  if (token !== null) headers.set("Authorization", `Bearer ${token}`);
  let answer;
  try {
    answer = await fetch(`/api${path}`, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal(say("unreachable"), 0);
  }
  if (!answer.ok) throw refused(answer.status, await answer.text());
  return answer;
}

function refused(status, text) {
  if (status === 401 && token !== null) {
    keep(null);
    onExpired();
    return new Refusal(say("expired"), status);
  }
  let msg;
  try {
    msg = JSON.parse(text).msg;
  } catch {
    msg = undefined;
  }
  return new Refusal(typeof msg === "string" && msg ? msg : say("refused", { status }), status);
}

export const get = async path => (await reach(path)).json();

export async function post(path, fields) {
  const body = fields instanceof FormData || fields instanceof URLSearchParams ? fields : JSON.stringify(fields);
  const headers = typeof body === "string" ? { "Content-Type": "application/json" } : {};
  const text = await (await reach(path, { method: "POST", headers, body })).text();
  return text ? JSON.parse(text) : {};
}

export async function blob(path, fields) {
  return (await reach(path, { method: "POST", body: new URLSearchParams(fields) })).blob();
}

export async function signIn(email, password) {
  keep(null);
  const answer = await post("/login", { email, password });
  keep(answer.token);
}

export async function signOut() {
  try {
    await post("/logout", {});
  } finally {
    keep(null);
  }
}

// The role only decides which parts of the page are shown; the gateway asks its own database.
export function role() {
  const bytes = Uint8Array.from(atob(token.split(".")[1].replace(/-/g, "+").replace(/_/g, "/")), c => c.charCodeAt(0));
  return JSON.parse(new TextDecoder().decode(bytes)).role;
}

// Release without waiting, also while the page is closing.
export function farewell() {
  if (token === null) return;
  const headers = { Authorization: `Bearer ${token}` };
  fetch("/api/avatar/disconnect", { method: "POST", headers, keepalive: true }).catch(() => {});
}

// Calls `take` with each event of a stream, however the network cuts it.
export async function stream(path, form, take, signal) {
  const answer = await reach(path, { method: "POST", body: form, headers: { Accept: "text/event-stream" }, signal });
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let carried = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (carried + value).split("\n");
    carried = lines.pop();
    for (const line of lines) {
      if (line.startsWith("data:")) take(JSON.parse(line.slice(5)));
    }
  }
}

// XMLHttpRequest, because fetch does not tell how far an upload is.
export function upload(path, form, progress) {
  return new Promise((resolve, reject) => {
    const call = new XMLHttpRequest();
    call.open("POST", `/api${path}`);
    call.setRequestHeader("Authorization", `Bearer ${token}`);
    call.upload.addEventListener("progress", event => progress(event.loaded / event.total));
    call.addEventListener("load", () => {
      if (call.status >= 200 && call.status < 300) resolve(JSON.parse(call.responseText || "{}"));
      else reject(refused(call.status, call.responseText));
    });
    call.addEventListener("error", () => reject(new Refusal(say("unreachable"), 0)));
    call.send(form);
  });
}
