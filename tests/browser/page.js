// Calls the gateway as the frontend does: XMLHttpRequest with a token, fetch for streams, no buffer between reads.
"use strict";

const api = `http://${location.hostname}:${new URLSearchParams(location.search).get("port")}/api`;
const shown = (id) => document.getElementById(id);
let token = null;

function call(method, path, { json, form, progress } = {}) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open(method, api + path);
    request.setRequestHeader("X-Request-Time", String(Date.now()));
    if (token) request.setRequestHeader("Authorization", `Bearer ${token}`);
    if (json) request.setRequestHeader("Content-Type", "application/json");
    if (progress) request.upload.onprogress = progress;
    request.onload = () => resolve({ status: request.status, body: JSON.parse(request.responseText) });
    request.onerror = () => reject(new Error("network"));
    request.send(json ? JSON.stringify(json) : form || null);
  });
}

shown("login").onsubmit = async (event) => {
  event.preventDefault();
  const answer = await call("POST", "/login", { json: Object.fromEntries(new FormData(event.target)) });
  shown("state").textContent = answer.status === 200 ? "signed in" : answer.body.msg;
  if (answer.status !== 200) return;
  token = answer.body.token;
  const avatars = await call("GET", "/avatar/list?timeout=30000");
  for (const [name, avatar] of Object.entries(avatars.body)) {
    const item = document.createElement("li");
    item.textContent = `${name}: ${avatar.status}`;
    shown("avatars").append(item);
  }
};

window.growth = [];
window.lost = [];
shown("question").onsubmit = async (event) => {
  event.preventDefault();
  const opened = await call("POST", "/chat/new", { json: { title: "New Chat" } });
  const form = new FormData(event.target);
  form.append("session_id", opened.body.session_id);
  const response = await fetch(`${api}/chat/stream`, {
    method: "POST",
    headers: { Authorization: `Bearer ${token}`, Accept: "text/event-stream" },
    body: form,
  });
  const reader = response.body.getReader();
  const decoder = new TextDecoder();
  for (;;) {
    const { value, done } = await reader.read();
    if (done) break;
    for (const line of decoder.decode(value, { stream: true }).split("\n")) {
      if (!line.startsWith("data: ")) continue;
      try {
        const said = JSON.parse(line.slice(6));
        if (said.chunk) shown("answer").textContent += said.chunk;
        if (said.status === "finished") shown("state").textContent = "finished";
      } catch {
        window.lost.push(line);
      }
    }
    window.growth.push([performance.now(), shown("answer").textContent.length]);
  }
  shown("state").textContent += ", closed";
};

window.steps = [];
shown("film").onchange = async (event) => {
  const form = new FormData();
  const fields = { name: "Filmed One", avatar_blur: "false", support_clone: "null", prompt_voice: "" };
  for (const [name, value] of Object.entries(fields)) form.append(name, value);
  form.append("prompt_face", event.target.files[0]);
  const answer = await call("POST", "/avatar/add", {
    form,
    progress: (sent) => {
      window.steps.push(sent.loaded);
      shown("sent").value = sent.loaded / sent.total;
    },
  });
  shown("upload").textContent = `${answer.status} ${answer.body.status || answer.body.msg}`;
};
