// The gateway's stream: who may look, how a stream is read, and what its end means.

import { say } from "/dashboard/words.js";

// The console's: a tutor who signed in there need not do it again in the same tab.
const KEY = "console.token";

export class Refusal extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

const token = () => sessionStorage.getItem(KEY);

export const signedIn = () => token() !== null;
export const forget = () => sessionStorage.removeItem(KEY);

async function reach(path, options = {}) {
  const headers = new Headers(options.headers);
  if (token() !== null) headers.set("Authorization", `Bearer ${token()}`);
  let answer;
  try {
    answer = await fetch(`/api${path}`, { ...options, headers, cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal(say("unreachable"), 0);
  }
  if (!answer.ok) throw new Refusal(await words(answer), answer.status);
  return answer;
}

async function words(answer) {
  try {
    const { msg } = JSON.parse(await answer.text());
    if (typeof msg === "string" && msg) return msg;
  } catch {
    // Something between here and the gateway answered.
  }
  return say("refused", { status: answer.status });
}

export async function signIn(email, password) {
  forget();
  const headers = { "Content-Type": "application/json" };
  const answer = await reach("/login", { method: "POST", headers, body: JSON.stringify({ email, password }) });
  sessionStorage.setItem(KEY, (await answer.json()).token);
}

export async function signOut() {
  try {
    await reach("/logout", { method: "POST" });
  } finally {
    forget();
  }
}

// Calls `take(name, content)` with each event, however the network cuts them, until the stream ends.
// EventSource could not send the token. A stream that is silent for `patience` ms is given up.
export async function watch(take, signal, patience = 40_000) {
  const answer = await reach("/stats/stream", { headers: { Accept: "text/event-stream" }, signal });
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let carried = "", name = "";
  try {
    for (;;) {
      const { value, done } = await inTime(reader.read(), patience);
      if (done) return;
      const lines = (carried + value).split("\n");
      carried = lines.pop();
      for (const line of lines) {
        if (line.startsWith("event:")) name = line.slice(6).trim();
        else if (line.startsWith("data:")) take(name, JSON.parse(line.slice(5)));
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

function inTime(promise, patience) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Refusal(say("unreachable"), 0)), patience);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}
