// What is behind the lines: upstreams, sessions, routes, errors, workers.

import { make, spark, write } from "/dashboard/chart.js";
import { duration, milliseconds, number, say, sayCheck } from "/dashboard/words.js";

// Checks that are no upstream.
const OWN_CHECKS = ["database", "redis", "loop", "places", "files"];

// What a small screen leaves out.
const SPARE = true;

class Table {
  // `columns`: key of its words, whether numbers are in it, whether it may be left out.
  constructor(name, columns) {
    this.columns = columns;
    this.name = name;
    this.title = make("h2", { id: `${name}-title` });
    this.head = make("thead");
    this.body = make("tbody");
    this.empty = make("p", { class: "empty" });
    this.scroll = make("div", { class: "scroll" }, make("table", { "aria-labelledby": `${name}-title` }, this.head, this.body));
    this.card = make("section", { class: "card", id: `table-${name}`, "aria-labelledby": `${name}-title` },
      this.title, this.scroll, this.empty);
  }

  // `rows` hold texts, or elements.
  show(rows, { title, empty = "" }) {
    write(this.title, title);
    write(this.empty, rows.length ? "" : empty);
    this.empty.hidden = rows.length > 0;
    this.scroll.hidden = rows.length === 0;
    const heads = this.columns.map(([key], index) => make("th", { scope: "col", class: this._kind(index) }, say(key)));
    this.head.replaceChildren(make("tr", {}, ...heads));
    this.body.replaceChildren(...rows.map(row => make("tr", {}, ...row.map((content, index) => this._cell(content, index)))));
  }

  _kind(index) {
    const [, number, spare] = this.columns[index];
    return `${number ? "number" : ""} ${spare ? "spare" : ""}`.trim();
  }

  _cell(content, index) {
    const kind = index === 0 ? ["th", { scope: "row" }] : ["td", { class: this._kind(index) }];
    return make(...kind, ...(typeof content === "string" ? broken(content) : [content]));
  }
}

// A path may go on in the next line, behind a slash.
const broken = text => text.split(/(?<=\/)(?=.)/).flatMap((part, index) => (index ? [make("wbr"), part] : [part]));

const checked = state => make("span", { class: `state ${state === undefined ? "" : state === "ok" ? "ok" : "wrong"}` },
  state === undefined ? say("idle") : sayCheck(state));

export class Tables {
  constructor(place) {
    this.upstreams = new Table("upstreams", [["service"], ["health"], ["flying", 1], ["waits", 1], ["away", 1], ["trend", 1, SPARE]]);
    this.avatars = new Table("avatars", [["avatar"], ["instance"], ["users", 1]]);
    this.workers = new Table("workers", [["process"], ["server"], ["flying", 1], ["late", 1], ["since", 1, SPARE]]);
    this.own = new Table("dependencies", [["service"], ["health"]]);
    this.routes = new Table("routes", [["route"], ["answerKind"], ["count", 1], ["mean", 1], ["own", 1, SPARE]]);
    this.codes = new Table("codes", [["code"], ["count", 1]]);
    for (const column of [[this.upstreams, this.avatars, this.workers, this.own], [this.routes, this.codes]]) {
      place.append(make("div", { class: "column" }, ...column.map(table => table.card)));
    }
  }

  show({ now, state, slots }) {
    this._showUpstreams(now, state, slots);
    const own = Object.entries(state.checks).filter(([name]) => OWN_CHECKS.includes(name));
    this.own.show(own.map(([name, told]) => [name, checked(told)]), { title: say("dependencies") });
    const instances = (state.instances ?? []).map(one => [one.avatar, one.instance, number(one.users)]);
    this.avatars.show(instances, { title: say("avatars"), empty: say(state.instances === null ? "signedInUnknown" : "noAvatars") });
    this.routes.show(state.routes.map(route => [
      `${route.method} ${route.route}`, route.answers, number(route.count), milliseconds(route.mean_ms), milliseconds(route.mean_gateway_ms),
    ]), { title: say("routes"), empty: say("noRoutes") });
    const codes = Object.entries(state.errors.by_code).map(([code, count]) => [code, number(count)]);
    this.codes.show(codes, { title: say("codes"), empty: say("noErrors") });
    const ended = state.workers_ended ? ` · ${say("ended", { count: state.workers_ended })}` : "";
    const lost = now.workers.reduce((sum, worker) => sum + worker.lost_lines, 0);
    this.workers.show(now.workers.map(worker => [
      String(worker.pid), `${worker.server}, ${worker.loop}`, number(worker.in_flight), milliseconds(worker.lag_ms), duration(worker.uptime),
    ]), { title: say("workers") + ended + (lost ? ` · ${say("lost")}: ${number(lost)}` : "") });
  }

  _showUpstreams(now, state, slots) {
    const probed = Object.keys(state.checks).filter(name => !OWN_CHECKS.includes(name));
    const names = [...new Set([...probed, ...Object.keys(now.upstreams)])];
    const rows = names.map(name => {
      const load = now.upstreams[name] ?? { in_flight: 0, waiting: 0, open_breakers: 0 };
      const told = load.open_breakers && state.checks[name] === undefined ? say("away") : state.checks[name];
      const line = slots.map(point => point?.upstreams[name]?.[0]);
      return [name, checked(told), number(load.in_flight), number(load.waiting), number(load.open_breakers), spark(line, "blue")];
    });
    this.upstreams.show(rows, { title: say("upstreams") });
  }
}
