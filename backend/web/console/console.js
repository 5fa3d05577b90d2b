// The page: who is signed in, which avatar is on, what is said.

import * as gateway from "/console/gateway.js";
import { Peer } from "/console/peer.js";
import { say, switchLanguage, translate } from "/console/words.js";

const $ = id => document.getElementById(id);
// What is done again and again on one page, numbered, so that a late answer changes nothing of a newer choice.
let choice = 0;
let peer = null;
let conversation = null;
let answering = null;
let stateKey = null;

function tell(error) {
  if (error.name === "AbortError") return;
  $("error").textContent = error.message;
  $("error").hidden = false;
}

// Wraps an action: its button rests meanwhile, its error is shown.
function acting(act) {
  return async event => {
    event.preventDefault();
    const button = event.submitter ?? event.currentTarget;
    if (button.disabled) return;
    $("error").hidden = true;
    button.disabled = true;
    try {
      await act(event);
    } catch (error) {
      tell(error);
    } finally {
      button.disabled = false;
    }
  };
}

function state(key) {
  stateKey = key;
  $("state").textContent = key ? say(key) : "";
}

function curtain(key) {
  $("curtain").hidden = key === null;
  if (key !== null) {
    $("curtain").dataset.text = key;
    $("curtain").textContent = say(key);
  }
}

// --- signing in and out ---

async function enter() {
  const tutor = gateway.role() === "tutor";
  $("entry").hidden = true;
  $("room").hidden = false;
  $("sign-out").hidden = false;
  $("workshop").hidden = !tutor;
  $("who").textContent = sessionStorage.getItem("console.email") ?? "";
  curtain("choose");
  $("main").focus();
  await Promise.all([showAvatars(), tutor ? showEngines() : null]);
}

function exit() {
  end();
  answering?.abort();
  conversation = null;
  $("log").replaceChildren();
  $("avatars").replaceChildren();
  $("who").textContent = "";
  $("sign-in").reset();
  $("room").hidden = true;
  $("sign-out").hidden = true;
  $("entry").hidden = false;
  $("email").focus();
}

const enterByForm = acting(async () => {
  await gateway.signIn($("email").value, $("password").value);
  sessionStorage.setItem("console.email", $("email").value);
  $("password").value = "";
  await enter();
});

const leaveAltogether = acting(async () => {
  await release();
  await gateway.signOut();
  exit();
});

// --- avatars ---

async function showAvatars() {
  const avatars = await gateway.get("/avatar/list");
  const items = Object.entries(avatars).map(([name, avatar]) => {
    const item = document.createElement("li");
    const button = document.createElement("button");
    const image = document.createElement("img");
    const title = document.createElement("strong");
    const about = document.createElement("small");
    image.alt = "";
    title.textContent = name;
    about.textContent = avatar.description ?? "";
    button.type = "button";
    button.ariaPressed = "false";
    button.dataset.avatar = name;
    button.append(image, title, about);
    button.addEventListener("click", acting(() => start(name)));
    item.append(button);
    return item;
  });
  $("avatars").replaceChildren(...items);
  const images = [...$("avatars").querySelectorAll("img")];
  // Not all at once: a browser keeps six connections to a place, and a click must not wait for pictures.
  for (let worker = 0; worker < 3; worker += 1) previews(images);
}

async function previews(images) {
  while (images.length) await preview(images.shift());
}

async function preview(image) {
  const name = image.closest("button").dataset.avatar;
  try {
    image.src = URL.createObjectURL(await gateway.blob("/avatar/preview", { avatar_name: name }));
  } catch {
    // A list without this picture is still a list.
  }
}

async function start(name) {
  const mine = ++choice;
  peer?.close();
  mark(name);
  state("starting");
  curtain("starting");
  const next = new Peer($("video"), lost);
  peer = next;
  try {
    await gateway.post("/avatar/start", new URLSearchParams({ avatar_name: name }));
    if (mine !== choice) return;
    state("connecting");
    await next.connect();
    if (mine !== choice) return;
    await $("video").play();
    state("live");
    curtain(null);
    $("hush").hidden = $("leave").hidden = false;
  } catch (error) {
    if (mine !== choice) return;
    end();
    throw error;
  }
}

function mark(name) {
  $("avatar-name").textContent = name ?? "";
  for (const button of $("avatars").querySelectorAll("button")) {
    button.ariaPressed = String(button.dataset.avatar === name);
  }
}

function lost(which) {
  if (which !== peer) return;
  end();
  state("lost");
}

function end() {
  choice += 1;
  peer?.close();
  peer = null;
  $("video").srcObject = null;
  $("hush").hidden = $("leave").hidden = true;
  mark(null);
  state(null);
  curtain("choose");
}

async function release() {
  if (peer === null) return;
  end();
  state("ended");
  await gateway.post("/avatar/disconnect", {});
}

// --- conversation ---

function line(kind, text) {
  const entry = document.createElement("p");
  entry.className = kind;
  entry.textContent = text;
  $("log").append(entry);
  $("log").scrollTop = $("log").scrollHeight;
  return entry;
}

const ask = acting(async () => {
  const question = $("message").value.trim();
  if (!question) return;
  if (conversation === null) {
    conversation = (await gateway.post("/chat/new", { title: question.slice(0, 50) })).session_id;
  }
  line("mine", question);
  $("message").value = "";
  const form = new FormData();
  form.set("message", question);
  form.set("session_id", conversation);
  const entry = line("theirs", "");
  // Read out when it is whole, not word by word.
  $("log").ariaBusy = "true";
  answering = new AbortController();
  let finished = false;
  try {
    await gateway.stream("/chat/stream", form, event => {
      if (event.chunk) entry.textContent += event.chunk;
      if (event.status === "finished") finished = true;
      $("log").scrollTop = $("log").scrollHeight;
    }, answering.signal);
    if (!finished) line("broken", say("broken"));
  } catch (error) {
    if (!entry.textContent) entry.remove();
    else if (error.name !== "AbortError") line("broken", say("broken"));
    throw error;
  } finally {
    $("log").ariaBusy = "false";
    answering = null;
  }
});

// --- uploads ---

async function sent(prefix, path, form) {
  const bar = $(`${prefix}-progress`);
  const words = $(`${prefix}-state`);
  bar.hidden = false;
  bar.value = 0;
  words.textContent = say("uploading");
  try {
    return await gateway.upload(path, form, share => {
      bar.value = 100 * share;
      if (share === 1) words.textContent = say("working");
    });
  } catch (error) {
    words.textContent = "";
    throw error;
  } finally {
    bar.hidden = true;
  }
}

const uploadDocument = acting(async event => {
  const form = new FormData();
  form.set("file", $("file").files[0]);
  const answer = await sent("upload", "/chat/upload", form);
  $("upload-state").textContent = `${answer.filename}: ${say(answer.rag_indexed === false ? "stored" : "uploaded")}`;
  event.target.reset();
});

async function showEngines() {
  const models = await gateway.get("/tts/models");
  const options = Object.values(models).map(model => new Option(model.full_name, model.full_name));
  $("new-engine").replaceChildren(...options);
}

const make = acting(async event => {
  const form = new FormData();
  form.set("name", $("new-name").value.trim());
  form.set("avatar_blur", "false");
  form.set("support_clone", "false");
  form.set("timbre", "default");
  form.set("tts_model", $("new-engine").value);
  form.set("avatar_model", "MuseTalk");
  form.set("prompt_face", $("new-face").files[0]);
  form.set("prompt_voice", $("new-voice").files[0] ?? "");
  await sent("make", "/avatar/add", form);
  $("make-state").textContent = say("created");
  event.target.reset();
  await showAvatars();
});

// --- wiring ---

translate();
gateway.whenExpired(exit);
$("language").addEventListener("click", () => {
  switchLanguage();
  state(stateKey);
});
$("sign-in").addEventListener("submit", enterByForm);
$("sign-out").addEventListener("click", leaveAltogether);
$("leave").addEventListener("click", acting(release));
$("hush").addEventListener("click", acting(() => {
  answering?.abort(); // or its next sentence would be spoken
  return peer.hush();
}));
$("ask").addEventListener("submit", ask);
$("message").addEventListener("keydown", event => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    $("ask").requestSubmit();
  }
});
$("upload").addEventListener("submit", uploadDocument);
$("make").addEventListener("submit", make);
window.addEventListener("pagehide", () => {
  if (peer !== null) {
    peer.close();
    gateway.farewell();
  }
});
if (gateway.signedIn()) enter().catch(tell);
