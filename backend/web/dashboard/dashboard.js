// The page: who looks, what came over the stream, and where it is shown.

import * as access from "/dashboard/access.js";
import { Chart, write } from "/dashboard/chart.js";
import { Tables } from "/dashboard/tables.js";
import { Tiles } from "/dashboard/tiles.js";
import { milliseconds, number, say, switchLanguage, translate } from "/dashboard/words.js";

const $ = id => document.getElementById(id);
// Between tries to reach a gateway that is away; shared out, so that not all pages come back at once.
const FIRST_TRY_MS = 1000, LAST_TRY_MS = 15_000;
// A page that nobody sees stops looking after a while.
const HIDDEN_MS = 60_000;

const CHARTS = [
  { name: "rate", title: "requests", spell: number, series: [{ label: "answers", colour: "blue", filled: true, of: p => p.rate }] },
  {
    name: "times", title: "times", spell: milliseconds, log: true, worst: true,
    series: [["p50", "teal"], ["p95", "blue"], ["p99", "violet"]].map(([label, colour], index) => ({
      label, colour, of: p => p.duration_ms[index],
    })),
  },
  {
    name: "errors", title: "errors", spell: number, stacked: true,
    series: [["byClient", "client", "slate"], ["byGateway", "gateway", "red"], ["byUpstream", "upstream", "amber"]].map(
      ([label, source, colour]) => ({ label, colour, of: p => p.errors[source] })),
  },
  {
    name: "work", title: "work", spell: number, worst: true, least: 4,
    series: [
      { label: "toAnswer", colour: "blue", filled: true, of: p => p.in_flight },
      { label: "toUpstreams", colour: "violet", of: p => p.places_in_use },
      { label: "waitingCalls", colour: "amber", of: p => Object.values(p.upstreams).reduce((sum, load) => sum + load[1], 0) },
    ],
  },
  {
    name: "traffic", title: "traffic", spell: number,
    series: [
      { label: "incoming", colour: "violet", of: p => p.received_mbps },
      { label: "outgoing", colour: "teal", filled: true, of: p => p.sent_mbps },
    ],
  },
  { name: "loop", title: "loop", spell: milliseconds, worst: true, least: 10, series: [{ label: "worst", colour: "teal", filled: true, of: p => p.lag_ms }] },
];

// What the stream told last; `points` by their number.
const told = { now: null, state: null, points: new Map(), latest: 0, seconds: 5, kept: 180 };
const charts = CHARTS.map(spec => new Chart(spec));
const tiles = new Tiles($("tiles"));
const tables = new Tables($("tables"));
$("charts").append(...charts.map(chart => chart.figure));

// --- what comes over the stream ---

const TAKE = {
  points({ now, seconds, kept, points }) {
    Object.assign(told, { seconds, kept });
    for (const point of points) told.points.set(point.number, point);
    // Numbers begin anew with the machine: what is of another count, or too old, goes.
    told.latest = Math.max(Math.floor(now) - 1, ...points.map(point => point.number));
    for (const known of told.points.keys()) {
      if (known > told.latest || known <= told.latest - kept) told.points.delete(known);
    }
  },
  state(state) { told.state = state; },
  now(now) {
    told.now = now;
    tiles.count(now);
    show();
  },
};

function slots() {
  return Array.from({ length: told.kept }, (_, index) => told.points.get(told.latest - told.kept + 1 + index));
}

let shownLatest = null, shownState = null;

function show(anew = false) {
  if (told.now === null || told.state === null || document.hidden) return;
  const all = { ...told, slots: slots() };
  if (anew || told.latest !== shownLatest || told.state !== shownState) {
    for (const chart of charts) chart.show({ slots: all.slots, seconds: told.seconds, kept: told.kept });
    tables.show(all);
    [shownLatest, shownState] = [told.latest, told.state];
  }
  tiles.show(all);
  const { status, version } = told.state;
  write($("health"), say(status));
  $("health").className = `pill ${status}`;
  write($("about"), say("version", { version }));
  $("room").hidden = false;
}

// --- the stream itself ---

let looking = null, paused = false, tries = 0;

function link(key) {
  $("link").className = key;
  $("link").dataset.text = key;
  write($("link"), say(key));
}

const rest = (ms, signal) => new Promise(resolve => {
  const timer = setTimeout(resolve, ms);
  signal.addEventListener("abort", () => { clearTimeout(timer); resolve(); }, { once: true });
});

async function look() {
  looking?.abort();
  const mine = looking = new AbortController();
  $("entry").hidden = true;
  $("pause").hidden = false;
  $("sign-out").hidden = !access.signedIn();
  while (!mine.signal.aborted) {
    link("waiting");
    tiles.restart();
    try {
      await access.watch((name, content) => {
        if (mine.signal.aborted) return;
        if (tries || $("link").className !== "live") link("live");
        tries = 0;
        $("error").hidden = true;
        TAKE[name]?.(content);
      }, mine.signal);
    } catch (error) {
      if (mine.signal.aborted || error.name === "AbortError") return;
      if (refused(error)) return;
    }
    if (mine.signal.aborted) return;
    link("waiting");
    const most = Math.min(LAST_TRY_MS, FIRST_TRY_MS * 2 ** tries++);
    await rest(most * (0.5 + Math.random() / 2), mine.signal);
  }
}

// True when trying again would not help.
function refused(error) {
  if (error.status === 401) {
    enter(access.signedIn() ? say("expired") : null);
    return true;
  }
  if (error.status === 403) {
    enter(say("tutorsOnly"));
    return true;
  }
  tell(error.status === 404 ? say("off") : error.message);
  return error.status === 404;
}

function stop() {
  looking?.abort();
  looking = null;
}

function tell(text) {
  write($("error"), text ?? "");
  $("error").hidden = !text;
}

// --- who looks ---

function enter(why) {
  stop();
  access.forget();
  tell(why);
  link("waiting");
  write($("link"), "");
  $("room").hidden = $("pause").hidden = $("sign-out").hidden = true;
  $("entry").hidden = false;
  $("email").focus();
}

function acting(act) {
  return async event => {
    event.preventDefault();
    const button = event.submitter ?? event.currentTarget;
    button.disabled = true;
    tell(null);
    try {
      await act(event);
    } catch (error) {
      tell(error.message);
    } finally {
      button.disabled = false;
    }
  };
}

$("sign-in").addEventListener("submit", acting(async () => {
  await access.signIn($("email").value, $("password").value);
  $("password").value = "";
  look();
}));
$("sign-out").addEventListener("click", acting(async () => {
  stop();
  await access.signOut().finally(() => enter(null));
}));
$("pause").addEventListener("click", () => {
  paused = !paused;
  $("pause").dataset.text = paused ? "resume" : "pause";
  write($("pause"), say($("pause").dataset.text));
  if (paused) {
    stop();
    link("paused");
  } else look();
});
$("language").addEventListener("click", () => {
  switchLanguage();
  for (const chart of charts) chart.translate();
  show(true);
});

let hiding;
document.addEventListener("visibilitychange", () => {
  clearTimeout(hiding);
  if (document.hidden) hiding = setTimeout(stop, HIDDEN_MS);
  else {
    show(true);
    if (looking === null && !paused && $("entry").hidden) look();
  }
});

translate();
look();
