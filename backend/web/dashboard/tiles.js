// The figures in large print: what is going on at this moment.

import { make, write } from "/dashboard/chart.js";
import { duration, milliseconds, number, percent, say } from "/dashboard/words.js";

const NAMES = ["rate", "latency", "failures", "inFlight", "pool", "lag", "signedIn", "uptime"];
// Rates are of the last so many looks, one a second.
const LOOKS = 6;
// From here on a figure is marked: errors that are not the clients', places that run out, a loop that is held up.
const BAD_SHARE = 0.05, FULL = 0.8, LATE_MS = 100, VERY_LATE_MS = 1000;

export class Tiles {
  constructor(list) {
    this.totals = [];
    this.tiles = {};
    for (const name of NAMES) {
      const title = make("dt"), value = make("dd", { class: "value" }), note = make("dd", { class: "note" });
      const tile = make("div", { class: "card tile", id: `tile-${name}` }, title, value, note);
      this.tiles[name] = { tile, title, value, note };
      list.append(tile);
    }
  }

  // A pause between streams is no time without requests.
  restart() {
    this.totals = [];
  }

  count(now) {
    this.totals.push([performance.now(), now.total_requests]);
    if (this.totals.length > LOOKS) this.totals.shift();
  }

  show({ now, state, slots }) {
    const waiting = Object.values(now.upstreams).reduce((sum, load) => sum + load.waiting, 0);
    const late = Math.max(0, ...now.workers.map(worker => worker.lag_ms));
    const { share, blamed, count } = failures(slots.slice(-12));
    const full = now.places ? now.places_in_use / now.places : 0;
    this._put("rate", number(this._rate()), say("rateNote", { total: number(now.total_requests) }));
    this._put("latency", milliseconds(state.duration_ms.last_minute.p95),
      say("latencyNote", { own: milliseconds(state.gateway_ms.last_minute.p95) }));
    this._put("failures", percent(share), say("failuresNote", { count: number(count) }), blamed >= BAD_SHARE && "bad");
    this._put("inFlight", number(now.in_flight), say("inFlightNote", { count: number(waiting) }), waiting > 0 && "warn");
    this._put("pool", number(now.places_in_use), say("poolNote", { count: number(now.places) }), full >= FULL && "warn");
    const workers = now.workers.length;
    this._put("lag", milliseconds(late), say(workers === 1 ? "lagNoteOne" : "lagNote", { count: workers }),
      late >= VERY_LATE_MS ? "bad" : late >= LATE_MS && "warn");
    const users = state.instances?.reduce((sum, instance) => sum + instance.users, 0);
    this._put("signedIn", number(state.signed_in),
      users === undefined ? say("signedInUnknown") : say("signedInNote", { count: number(users) }));
    this._put("uptime", duration(now.uptime), say("uptimeNote", { count: number(now.viewers) }));
  }

  _rate() {
    if (this.totals.length < 2) return null;
    const [[began, before]] = this.totals, [ended, after] = this.totals.at(-1);
    return ended > began ? Math.max(0, (after - before) / ((ended - began) / 1000)) : null;
  }

  _put(name, value, note, mark) {
    const tile = this.tiles[name];
    write(tile.title, say(name));
    write(tile.value, value);
    write(tile.note, note);
    const marked = `card tile ${mark || ""}`.trim();
    if (tile.tile.className !== marked) tile.tile.className = marked;
  }
}

// The share of all requests that failed, and of those that were not the client's fault.
function failures(slots) {
  const known = slots.filter(point => point !== undefined);
  const sum = of => known.reduce((total, point) => total + of(point), 0);
  const rate = sum(point => point.rate);
  const blamed = sum(point => point.errors.gateway + point.errors.upstream);
  const all = blamed + sum(point => point.errors.client);
  return { share: rate ? all / rate : 0, blamed: rate ? blamed / rate : 0, count: Math.round(rate * 5) };
}
