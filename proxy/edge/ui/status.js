// The status page: reads /ui/events and shows it. Text goes into the page as text, never as HTML.

const HISTORY = 60; // snapshots in a chart, one a second
const SPEAK_EVERY_MS = 15000; // a screen reader is told the numbers no more often than this
const LONGEST_WAIT_S = 30;

const find = (id) => document.getElementById(id);
const history = [];

let key = ""; // only here: not in storage, not in a cookie, not in an address
let controller = null; // of the events that are being read
let attempts = 0;
let timer = 0;
let isPaused = false;
let latest = null;
let chosen = null; // the request whose timeline is shown, and the number of its row
let spokenAt = 0;

// --- words

const round = (value, digits) => value.toLocaleString("en", { maximumFractionDigits: digits });
const rate = (value) => round(value, value < 10 ? 1 : 0);
const count = (value) => (value === undefined ? "" : round(value, 0));

function lasts(ms) {
  if (ms === undefined || ms === null) return "–";
  if (ms < 10) return `${round(ms, 1)} ms`;
  if (ms < 1000) return `${round(ms, 0)} ms`;
  if (ms < 60000) return `${round(ms / 1000, ms < 10000 ? 2 : 1)} s`;
  return `${Math.floor(ms / 60000)} min ${Math.floor((ms % 60000) / 1000)} s`;
}

const percentile = (spread, name) =>
  spread.count === 0 ? "–" : spread[name] === null ? `over ${lasts(spread.largest_ms)}` : lasts(spread[name]);

const clock = (at) => new Date(at * 1000).toLocaleTimeString("en-GB");
const words = (name) => name.replaceAll("_", " ");
const many = (number, one, others) => `${count(number)} ${number === 1 ? one : others}`;

// --- the page

function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function element(name, attributes = {}, text = "") {
  const made = document.createElement(name);
  for (const [attribute, value] of Object.entries(attributes)) made.setAttribute(attribute, value);
  if (text) made.textContent = text;
  return made;
}

// Rows are kept by key, so that the focus, a selection and a screen reader's place survive an update.
function fill(id, items, keyOf, cellsOf, nothing) {
  const table = find(id);
  const body = table.tBodies[0];
  const known = new Map([...body.rows].map((row) => [row.dataset.key, row]));
  const columns = table.tHead.rows[0].cells;
  const rows = items.map((item) => {
    const name = String(keyOf(item));
    const row = known.get(name) ?? element("tr", { "data-key": name });
    known.delete(name);
    cellsOf(item).forEach((cell, number) => put(row, number, columns[number], cell));
    row.classList.toggle("chosen", chosen !== null && row.dataset.key === chosen.row && id === chosen.table);
    return row;
  });
  if (rows.length === 0) {
    const row = known.get("none") ?? element("tr", { "data-key": "none" });
    known.delete("none");
    if (!row.cells.length) row.append(element("td", { colspan: columns.length, class: "none" }, nothing));
    rows.push(row);
  }
  for (const row of known.values()) row.remove();
  rows.forEach((row, number) => {
    if (body.rows[number] !== row) body.insertBefore(row, body.rows[number] ?? null);
  });
}

// A cell is a text, or a text with a class, or with what its button does.
function put(row, number, column, cell) {
  const { text, style = "", press } = typeof cell === "string" ? { text: cell } : cell;
  let place = row.cells[number];
  if (!place) {
    place = number === 0 ? element("th", { scope: "row" }) : element("td");
    row.append(place);
    if (press) place.append(element("button", { type: "button", class: "link" }));
  }
  const kind = [column.classList.contains("number") ? "number" : "", style].join(" ").trim();
  if (place.className !== kind) place.className = kind;
  if (press) place.firstChild.onclick = press;
  say(press ? place.firstChild : place, text);
}

function draw(id, values) {
  const top = Math.max(1, ...values);
  const from = HISTORY - values.length;
  const points = values.map((value, number) => `${(from + number) * 2},${(23 - (value / top) * 22).toFixed(1)}`);
  find(id).setAttribute("points", points.join(" "));
}

// --- what is shown

function show(seen) {
  latest = seen;
  history.push([seen.requests.per_s, seen.in_flight]);
  if (history.length > HISTORY) history.shift();
  if (isPaused) return;
  reveal(true);
  showHead(seen);
  showNow(seen);
  showLatency(seen);
  showReplicas(seen);
  showRequests(seen);
  fill("rules", seen.rules, (rule) => rule.name,
    (rule) => [{ text: rule.name, style: "mono" }, count(rule.count), rate(rule.per_s)], "None so far.");
  speak(seen);
}

function reveal(isShown) {
  find("access").hidden = isShown;
  for (const id of ["shown", "head-state", "about", "pause"]) find(id).hidden = !isShown;
}

function showHead(seen) {
  const state = find("state");
  state.dataset.state = seen.state;
  say(state, { ok: "ready", no_upstream: "no model server", draining: "draining" }[seen.state]);
  say(find("about"), `${seen.version}, worker ${seen.worker} of ${seen.workers}`);
  const whose = seen.workers === 1 ? "" : ` They are of worker ${seen.worker} of ${seen.workers} only, which this page is connected to.`;
  say(find("recent-about"), `Choose one for its timeline.${whose}`);
  say(find("errors-about"), `Of any path.${whose}`);
}

function showNow(seen) {
  const { by_status: ends } = seen.requests;
  say(find("rate"), rate(seen.requests.per_s));
  say(find("rate-more"), `${count(seen.requests.total)} since the start`);
  say(find("running"), count(seen.in_flight));
  say(find("running-more"), seen.oldest_s ? `oldest ${lasts(seen.oldest_s * 1000)}` : "none is old");
  say(find("queued"), count(seen.queued));
  say(find("failing"), rate(ends["4xx"] + ends["5xx"]));
  find("failing").className = ends["5xx"] > 0 ? "bad" : "";
  say(find("failing-more"), `${rate(ends["4xx"])} 4xx, ${rate(ends["5xx"])} 5xx`);
  say(find("tokens"), rate(seen.tokens_per_s.out));
  say(find("tokens-more"), `${rate(seen.tokens_per_s.in)} in, ${rate(seen.events_per_s)} events`);
  draw("rate-line", history.map(([value]) => value));
  draw("running-line", history.map(([, value]) => value));
}

const SPREADS = { ttft: "Time to first token", gap: "Gap between events", overhead: "Time in the proxy" };

function showLatency(seen) {
  const some = seen.workers === 1 ? "" : ", of all workers";
  say(find("latency-about"), seen.lasted_s ? `Of the last ${many(Math.round(seen.lasted_s), "second", "seconds")}${some}.` : "Since now.");
  fill("latency", Object.keys(SPREADS), (name) => name, (name) => {
    const spread = seen.spreads[name];
    return [SPREADS[name], ...["p50", "p90", "p99"].map((part) => percentile(spread, part)), count(spread.count)];
  }, "");
}

const STYLES = { closed: "good", half_open: "warn", open: "bad", healthy: "good", unhealthy: "bad", unseen: "warn" };

function breaker(replica, workers) {
  const others = Object.entries(replica.breakers).filter(([state, number]) => state !== replica.breaker && number);
  const more = others.map(([state, number]) => `${words(state)} in ${number} of ${workers} workers`);
  const style = STYLES[replica.breaker === "closed" && others.length ? "half_open" : replica.breaker];
  return { text: [words(replica.breaker), ...more].join("; "), style };
}

function showReplicas(seen) {
  fill("replicas", seen.replicas, (replica) => replica.name, (replica) => [
    { text: replica.name, style: "mono" },
    breaker(replica, seen.workers),
    { text: replica.health, style: STYLES[replica.health] },
    count(replica.in_flight),
    count(replica.requests),
    { text: count(replica.failures), style: replica.failures ? "warn" : "" },
    replica.zone || "–",
    { text: replica.profile, style: "mono" },
  ], "No model server is known.");
}

const status = (request) => ({ text: String(request.status), style: request.status >= 500 ? "bad" : request.status >= 400 ? "warn" : "" });
const pressing = (table, request) => ({ text: request.request_id, press: () => choose(table, request) });

function showRequests(seen) {
  fill("recent", seen.recent, (request) => request.number, (request) => [
    pressing("recent", request),
    clock(request.at),
    status(request),
    request.model ?? "–",
    request.replica ?? (request.cache === "hit" ? "cache" : "–"),
    request.stream ? lasts(request.ttft_ms) : "–",
    lasts(request.duration_ms),
    request.tokens_out === undefined ? "–" : `${count(request.tokens_in)} / ${count(request.tokens_out)}`,
    { text: (request.rules ?? []).join(", ") || "–", style: "mono long" },
  ], "None so far.");
  fill("errors", seen.errors, (request) => request.number, (request) => [
    pressing("errors", request),
    clock(request.at),
    status(request),
    { text: String(request.error), style: "mono" },
    { text: request.path, style: "mono" },
    request.replica ?? "–",
  ], "None so far.");
}

// --- one request

// Each phase begins where the one before ends; what did not happen is left out.
function phases(request) {
  const end = request.duration_ms;
  const queued = request.queue_ms ?? 0;
  const made = [["queue", "Waits for a place in the queue", 0, queued]];
  if (request.sent_ms === undefined) {
    made.push(["proxy", "In the proxy", queued, end]);
  } else {
    const answered = Math.min(end, request.sent_ms + (request.upstream_ms ?? end));
    const first = request.stream ? Math.min(request.ttft_ms ?? answered, answered) : answered;
    made.push(["proxy", "Is read, translated and checked", queued, request.sent_ms]);
    made.push(["server", request.stream ? "Connects, and waits for the first byte" : "Connects, and waits for the answer", request.sent_ms, first]);
    made.push(["stream", "Streams", first, answered]);
    made.push(["end", "Ends", answered, end]);
  }
  return made.filter(([name, , from, to]) => to > from || name === "proxy");
}

function choose(table, request) {
  chosen = { table, row: String(request.number) };
  const facts = [
    `${request.method} ${request.path}`, `status ${request.status}`,
    request.error ? `error ${request.error}` : "", request.model ? `model ${request.model}` : "",
    request.replica ? `replica ${request.replica}` : "", request.profile ? `profile ${request.profile}` : "",
    request.principal ? `asked by ${request.principal}` : "",
    request.attempts > 1 ? `${request.attempts} attempts (${(request.retried ?? []).map(words).join(", ")})` : "",
    request.limit ? `refused by the limit ${words(request.limit)}` : "", request.failover ? `failover ${request.failover}` : "", request.cache ? `cache ${request.cache}` : "",
    request.events ? many(request.events, "event", "events") : "",
    request.finish_reason ? `finish reason ${request.finish_reason}` : "",
    (request.rules ?? []).length ? `rules ${request.rules.join(", ")}` : "",
    request.read_ms === undefined ? "" : `read in ${lasts(request.read_ms)}`,
    request.translate_ms === undefined ? "" : `translated in ${lasts(request.translate_ms)}`,
    request.connect_ms === undefined ? "" : `connected in ${lasts(request.connect_ms)}`,
    request.trace_id ? `trace ${request.trace_id}` : "",
  ];
  const found = phases(request);
  say(find("timeline-title"), `Request ${request.request_id}, ${lasts(request.duration_ms)}`);
  say(find("timeline-about"), facts.filter(Boolean).join(" · "));
  find("timeline-bar").replaceChildren(...found.map(([phase, , from, to]) => {
    const part = element("i", { "data-phase": phase });
    part.style.width = `${(100 * (to - from)) / Math.max(request.duration_ms, 0.001)}%`;
    return part;
  }));
  const panel = find("timeline");
  panel.querySelector("tbody").replaceChildren(...found.map(([phase, name, from, to]) => {
    const row = element("tr");
    const head = element("th", { scope: "row" });
    head.append(element("span", { class: "swatch", "data-phase": phase }), name);
    row.append(head, element("td", {}, lasts(from)), element("td", {}, lasts(to - from)));
    return row;
  }));
  panel.hidden = false;
  panel.focus();
  if (latest) showRequests(latest);
}

function closeTimeline() {
  const { table, row } = chosen;
  chosen = null;
  find("timeline").hidden = true;
  if (latest) showRequests(latest);
  const button = find(table).querySelector(`tr[data-key="${row}"] button`);
  (button ?? find("main")).focus();
}

// --- for who listens

function speak(seen) {
  const now = Date.now();
  if (now - spokenAt < SPEAK_EVERY_MS) return;
  spokenAt = now;
  const ill = seen.replicas.filter((replica) => replica.breaker !== "closed").length;
  say(find("spoken"), [
    `${many(seen.requests.per_s, "request", "requests")} per second`, `${count(seen.in_flight)} in flight`,
    `${count(seen.replicas.length - ill)} of ${many(seen.replicas.length, "replica", "replicas")} in use`,
  ].join(", "));
}

// --- the events

class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function read(signal) {
  const headers = key ? { Accept: "text/event-stream", Authorization: `Bearer ${key}` } : { Accept: "text/event-stream" };
  const response = await fetch("/ui/events", { headers, signal, cache: "no-store" });
  if (!response.ok) {
    const answer = await response.json().catch(() => ({}));
    throw new Refused(response.status, answer.error?.message ?? `status ${response.status}`);
  }
  attempts = 0;
  say(find("connection"), isPaused ? "Paused" : "Live");
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const events = (rest + value).split("\n\n");
    rest = events.pop();
    for (const event of events) take(event);
  }
}

function take(event) {
  if (!event.startsWith("data: {")) return;
  const seen = JSON.parse(event.slice(6));
  if (seen.error) throw new Refused(seen.error.code === "forbidden" ? 403 : 401, seen.error.message);
  show(seen);
}

async function follow() {
  clearTimeout(timer);
  controller?.abort();
  const mine = (controller = new AbortController());
  try {
    await read(mine.signal);
  } catch (error) {
    if (mine !== controller || mine.signal.aborted) return;
    if (error instanceof Refused && (error.status === 401 || error.status === 403)) return askForKey(error.message);
    if (error instanceof Refused) return again(error.message);
  }
  if (mine === controller && !mine.signal.aborted) again("Connection lost.");
}

function again(why) {
  const wait = Math.min(2 ** attempts, LONGEST_WAIT_S);
  attempts += 1;
  say(find("connection"), `${why} Next try in ${wait} s`);
  find("state").dataset.state = "unknown";
  say(find("state"), "not known");
  timer = setTimeout(follow, wait * 1000);
}

function askForKey(why) {
  key = "";
  reveal(false);
  say(find("key-error"), why);
  say(find("connection"), "Needs a key");
  find("key").focus();
}

// --- for who presses

find("access").addEventListener("submit", (event) => {
  event.preventDefault();
  key = find("key").value.trim();
  find("key").value = "";
  say(find("key-error"), "");
  say(find("connection"), "Connecting");
  follow();
});

find("pause").addEventListener("click", () => {
  isPaused = !isPaused;
  find("pause").setAttribute("aria-pressed", String(isPaused));
  say(find("connection"), isPaused ? "Paused" : "Live");
  if (!isPaused && latest) {
    history.pop(); // show() adds it again
    show(latest);
  }
});

find("timeline-close").addEventListener("click", closeTimeline);

// A page that nobody sees asks for nothing, so that nothing is computed for it.
document.addEventListener("visibilitychange", () => {
  if (document.hidden) {
    clearTimeout(timer);
    controller?.abort();
    say(find("connection"), "Asleep");
  } else if (find("access").hidden) {
    attempts = 0;
    follow();
  }
});

if (document.documentElement.dataset.key === "required") askForKey("");
else follow();
