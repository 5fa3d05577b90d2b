// Every text of the page in both languages, and how numbers are spelled.

const WORDS = {
  en: {
    skip: "Skip to content", title: "Gateway dashboard", signIn: "Sign in", signOut: "Sign out", email: "Email",
    password: "Password", forTutors: "From another machine than the gateway's own, the dashboard is for tutors.",
    now: "Now", quarter: "The last 15 minutes", details: "In detail", pause: "Pause", resume: "Go on",
    live: "live", paused: "paused", waiting: "connecting …", switchTo: "中文", switchLang: "zh",
    healthy: "healthy", degraded: "degraded", unhealthy: "unhealthy", version: "version {version}",
    rate: "Requests a second", rateNote: "{total} in all", latency: "Answer time, p95",
    latencyNote: "gateway's own part {own}", failures: "Errors, last minute", failuresNote: "of {count} requests",
    inFlight: "In flight", inFlightNote: "{count} waiting for a place", pool: "Places for upstream calls",
    poolNote: "of {count} taken", lag: "Event loop late by", lagNote: "worst of 10 s, {count} workers",
    lagNoteOne: "worst of 10 s, one worker", signedIn: "Signed in", signedInNote: "{count} with an avatar",
    signedInUnknown: "the database does not say", uptime: "Running for", uptimeNote: "watched by {count}",
    requests: "Requests a second", answers: "all", times: "Answer time", errors: "Errors a second",
    byClient: "client", byGateway: "gateway", byUpstream: "upstream", work: "Calls in flight", toAnswer: "requests",
    toUpstreams: "to upstreams", waitingCalls: "waiting", traffic: "Traffic, Mbit/s", incoming: "in", outgoing: "out",
    loop: "Event loop late by", worst: "worst", table: "Table", minutesAgo: "minutes ago",
    minuteMean: "mean of each minute", minuteWorst: "highest of each minute", ago: "{time} ago", noData: "nothing",
    upstreams: "Upstreams", service: "service", health: "health", flying: "in flight", waits: "waiting",
    away: "kept away", trend: "15 minutes", ok: "ok", idle: "not probed", dependencies: "Dependencies",
    avatars: "Sessions by instance", avatar: "avatar", instance: "instance", users: "users",
    noAvatars: "Nobody has an avatar.", routes: "Routes", route: "route", answerKind: "answers", count: "count",
    mean: "mean", own: "gateway", noRoutes: "No request yet.", codes: "Errors since the start", code: "code",
    noErrors: "None.", workers: "Workers", process: "process", server: "server", late: "late by", since: "running",
    ended: "{count} have ended", lost: "lost log lines", expired: "Your sign-in has ended. Please sign in again.",
    tutorsOnly: "This account may not see the dashboard: it is for tutors.", off: "This gateway does not count its requests (GATEWAY_FIGURES).",
    refused: "That did not work (status {status}).", unreachable: "The gateway does not answer. Trying again.",
    upstream_refused: "not running", upstream_connect_timeout: "cannot be reached", unreachableCheck: "unreachable",
    "no answer in time": "no answer in time", "all taken": "all taken", "nearly full": "nearly full",
    overloaded: "overloaded", upstream_first_byte_timeout: "no answer in time", upstream_broken: "breaks off",
  },
  zh: {
    skip: "跳到内容", title: "网关仪表盘", signIn: "登录", signOut: "退出登录", email: "邮箱",
    password: "密码", forTutors: "从网关以外的机器访问时，仅教师可查看仪表盘。",
    now: "当前", quarter: "最近 15 分钟", details: "详情", pause: "暂停", resume: "继续",
    live: "实时", paused: "已暂停", waiting: "正在连接……", switchTo: "English", switchLang: "en",
    healthy: "正常", degraded: "部分异常", unhealthy: "异常", version: "版本 {version}",
    rate: "每秒请求数", rateNote: "共 {total}", latency: "响应时间 p95",
    latencyNote: "其中网关自身 {own}", failures: "错误率（最近一分钟）", failuresNote: "共 {count} 个请求",
    inFlight: "处理中", inFlightNote: "{count} 个在等待名额", pool: "上游调用名额",
    poolNote: "共 {count} 个", lag: "事件循环延迟", lagNote: "10 秒内最差，{count} 个进程",
    lagNoteOne: "10 秒内最差，1 个进程", signedIn: "已登录", signedInNote: "{count} 人正在使用数字人",
    signedInUnknown: "数据库没有响应", uptime: "已运行", uptimeNote: "{count} 人正在查看",
    requests: "每秒请求数", answers: "全部", times: "响应时间", errors: "每秒错误数",
    byClient: "客户端", byGateway: "网关", byUpstream: "上游", work: "进行中的调用", toAnswer: "请求",
    toUpstreams: "到上游", waitingCalls: "等待中", traffic: "流量（Mbit/s）", incoming: "流入", outgoing: "流出",
    loop: "事件循环延迟", worst: "最差", table: "表格", minutesAgo: "分钟前",
    minuteMean: "每分钟平均值", minuteWorst: "每分钟最大值", ago: "{time}前", noData: "无",
    upstreams: "上游服务", service: "服务", health: "状态", flying: "进行中", waits: "等待",
    away: "已隔离", trend: "15 分钟", ok: "正常", idle: "未探测", dependencies: "依赖",
    avatars: "各实例的会话", avatar: "数字人", instance: "实例", users: "用户",
    noAvatars: "没有人使用数字人。", routes: "路由", route: "路由", answerKind: "响应", count: "次数",
    mean: "平均", own: "网关", noRoutes: "还没有请求。", codes: "启动以来的错误", code: "代码",
    noErrors: "没有。", workers: "工作进程", process: "进程", server: "服务器", late: "延迟", since: "运行",
    ended: "{count} 个已结束", lost: "丢失的日志行", expired: "登录已失效，请重新登录。",
    tutorsOnly: "此账号无权查看仪表盘，仅限教师。", off: "此网关未统计请求（GATEWAY_FIGURES）。",
    refused: "操作未成功（状态 {status}）。", unreachable: "网关没有响应，正在重试。",
    upstream_refused: "未运行", upstream_connect_timeout: "无法连接", unreachableCheck: "无法连接",
    "no answer in time": "没有及时响应", "all taken": "已全部占用", "nearly full": "快满了",
    overloaded: "过载", upstream_first_byte_timeout: "没有及时响应", upstream_broken: "中途断开",
  },
};

let language = localStorage.getItem("console.language") ?? (navigator.language.startsWith("zh") ? "zh" : "en");

// What has no words, such as p95, is called by its name.
export function say(key, values = {}) {
  return (WORDS[language][key] ?? key).replace(/\{(\w+)\}/g, (_, name) => values[name]);
}

// What a check tells, in words where there are some for it.
export const sayCheck = state => WORDS[language][state === "unreachable" ? "unreachableCheck" : state] ?? state;

export function translate() {
  document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
  document.title = say("title");
  for (const element of document.querySelectorAll("[data-text]")) element.textContent = say(element.dataset.text);
  for (const element of document.querySelectorAll("[data-label]")) element.ariaLabel = say(element.dataset.label);
  const button = document.getElementById("language");
  button.textContent = say("switchTo");
  button.lang = say("switchLang");
}

export function switchLanguage() {
  language = language === "zh" ? "en" : "zh";
  localStorage.setItem("console.language", language);
  translate();
}

const locale = () => (language === "zh" ? "zh-CN" : "en");

export function number(value) {
  if (value === null || value === undefined) return "–";
  const digits = Math.abs(value) >= 100 || Number.isInteger(value) ? 0 : Math.abs(value) >= 10 ? 1 : 2;
  return new Intl.NumberFormat(locale(), { maximumFractionDigits: digits }).format(value);
}

export function milliseconds(value) {
  if (value === null || value === undefined) return "–";
  return value < 1000 ? `${number(value)} ms` : duration(value / 1000);
}

export function duration(seconds) {
  if (seconds < 120) return `${number(seconds < 10 ? seconds : Math.round(seconds))} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172_800) return `${number(seconds / 3600)} h`;
  return `${Math.round(seconds / 86_400)} d`;
}

export const percent = share => `${number(share * 100)} %`;
