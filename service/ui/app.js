// Shows jobs, models and data sets. Everything that a user wrote reaches the page as text, never as markup.

const EVERY = 2000, MINUTE = 60_000;
const KEY = "gammabeta-key";
const KIND_OF_STATE = {
  succeeded: "good", ready: "good",
  running: "busy", validating: "busy",
  queued: "wait", retrying: "wait", cancelling: "wait", paused: "wait",
  failed: "bad",
};

const ENGINES = { onnxruntime: "ONNX Runtime" };
const FEW = 3;

const UNITS = [[86400, "d"], [3600, "h"], [60, "min"]];

const number = new Intl.NumberFormat("en");

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

// Where rows are narrow they are laid out as grids, and a browser may then forget that they were rows: the roles stay.
function row(key, ...cells) {
  const made = make("tr", { role: "row" }, ...cells);
  made.dataset.key = key;
  return made;
}

const cell = (...children) => make("td", { role: "cell" }, ...children);
const wide = (...children) => make("td", { role: "cell", className: "wide" }, ...children);
const heading = (properties, ...children) => make("th", { role: "rowheader", scope: "row", ...properties }, ...children);
const muted = (text) => make("span", { className: "muted" }, text);
const small = (text) => make("div", { className: "muted small" }, text);
const pill = (state) => make("span", { className: `pill ${KIND_OF_STATE[state] ?? ""}` }, state);
const address = (...path) => "/" + path.map(encodeURIComponent).join("/");
const link = (text, ...path) => make("a", { href: address(...path) }, text);
const links = (...all) => make("td", { role: "cell", className: "links" }, ...all);
const short = (child, title) => make("td", { role: "cell", className: "short", title: title ?? "" }, child);
const named = (text, ...below) => heading({ className: "name", title: text }, text, ...below);
const again = (text) => heading({ className: "name again", title: text }, text);

function since(time) {
  const seconds = Math.max(0, (Date.now() - Date.parse(time)) / 1000);
  const [size, unit] = UNITS.find(([least]) => seconds >= least) ?? [1, "s"];
  return seconds < 5 ? "now" : `${Math.floor(seconds / size)} ${unit} ago`;
}

const ago = (time) => make("time", { dateTime: time, title: new Date(time).toLocaleString(), className: "muted" }, since(time));

function duration(seconds) {
  if (seconds < 1) return "under 1 s";
  if (seconds < 60) return `${Math.round(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
  return `${Math.floor(seconds / 86400)} d`;
}

function size(bytes) {
  const units = ["B", "kB", "MB", "GB"];
  const power = Math.min(units.length - 1, bytes > 0 ? Math.floor(Math.log10(bytes) / 3) : 0);
  return `${(bytes / 1000 ** power).toFixed(power ? 1 : 0)} ${units[power]}`;
}

function score(metrics) {
  if (!metrics) return muted("–");
  if (typeof metrics.accuracy === "number") return `${(100 * metrics.accuracy).toFixed(2)}\u00a0%`;
  if (typeof metrics.mae === "number") return `mae ${metrics.mae.toPrecision(3)}`;
  return typeof metrics.loss === "number" ? `loss ${metrics.loss.toPrecision(3)}` : muted("–");
}

function measured(metrics) {
  const order = ["val_accuracy", "accuracy", "val_mae", "mae", "val_loss", "loss"];
  const shown = order.filter((name) => typeof metrics?.[name] === "number").slice(0, 2);
  if (!shown.length) return [muted("–")];
  return shown.map((name) => {
    const value = metrics[name];
    const text = name.endsWith("accuracy") ? `${(100 * value).toFixed(2)}\u00a0%` : value.toPrecision(4);
    return make("div", {}, muted(`${name.replace("_", " ")} `), text);
  });
}

// Of what was published, which after an early stop is not the last epoch.
function published(metrics) {
  return ["validation", "test"].filter((split) => metrics[split])
    .map((split) => make("div", {}, muted(`${split} `), score(metrics[split])));
}

function results(job) {
  const metrics = job.result?.metrics;
  if (!metrics) return measured(job.progress?.metrics);
  return job.kind === "predict" ? measured(metrics) : published(metrics);
}

// A training has series; a prediction has a file, once it has succeeded; a reading has neither.
function made(job) {
  if (job.kind === "train") return link("metrics", "v1", "jobs", job.id, "metrics");
  return job.result?.file ? link("file", ...job.result.file.split("/").filter(Boolean)) : null;
}

function progress(job) {
  if (job.error) return make("div", { className: "why" }, `${job.error.code}: ${job.error.message}`);
  if (job.status === "succeeded") return bar(1, "done", took(job), counted(job.progress));
  if (job.status === "queued" && job.queue_position) return muted(`number ${job.queue_position} in the queue`);
  const now = job.progress;
  if (!now) return muted(job.status === "running" ? "starting" : "–");
  const eta = job.status === "running" && now.eta_seconds != null ? `${duration(now.eta_seconds)} left` : "";
  const speed = now.samples_per_second ? `${number.format(Math.round(now.samples_per_second))} rows/s` : "";
  const kind = job.status === "cancelled" ? "stopped" : "";
  return bar(now.fraction, kind, counted(now), [eta, speed].filter(Boolean).join(" · "));
}

const counted = (now) => (now?.epochs ? `epoch ${now.epoch} of ${now.epochs}` : now?.steps ? `step ${number.format(now.step)} of ${number.format(now.steps)}` : "");
const took = (job) => (job.finished_at && job.started_at ? `took ${duration((Date.parse(job.finished_at) - Date.parse(job.started_at)) / 1000)}` : "");

function bar(fraction, kind, left, right) {
  const filled = make("div");
  filled.style.width = `${Math.round(1000 * Math.min(1, Math.max(0, fraction))) / 10}%`;
  return make("div", {},
    make("div", { className: `bar ${kind}`, title: `${Math.round(100 * fraction)} %` }, filled),
    make("div", { className: "under" }, make("span", {}, left), make("span", {}, right)));
}

function jobRow(job, names) {
  const model = job.version
    ? link(`${job.model} ${job.version}`, "v1", "models", job.model, "versions", job.version)
    : job.model ?? muted("–");
  const dataset = job.dataset ? link(names.get(job.dataset) ?? job.dataset, "v1", "datasets", job.dataset) : muted("–");
  const attempts = job.attempt > 1 ? [small(`attempt ${job.attempt}`)] : [];
  return row(job.id,
    heading({}, link(job.kind, "v1", "jobs", job.id), " ", make("div", {}, make("code", { title: job.id }, job.id.slice(0, 16) + "…"))),
    cell(pill(job.status), job.device ? small(job.device) : null, ...attempts),
    wide(progress(job), ...job.warnings.map((each) => make("div", { className: "warned", title: each.code }, each.message))),
    short(model, job.model),
    short(dataset, names.get(job.dataset)),
    cell(...results(job)),
    cell(ago(job.created_at)),
    links(link("events", "v1", "jobs", job.id, "events"), made(job)));
}

function modelRows(model) {
  return model.versions.flatMap((version, index) => {
    const path = ["v1", "models", model.name, "versions", version.version];
    const aliases = Object.keys(model.aliases).filter((alias) => model.aliases[alias] === version.version);
    const tags = index === 0 && !("production" in model.aliases) ? [...aliases, "newest"] : aliases;
    const shown = row(address(...path),
      index === 0 ? named(model.name) : again(model.name),
      cell(link(version.version, ...path), muted(" · "), ago(version.created_at)),
      cell(...(tags.length ? tags.map((tag) => make("span", { className: "tag" }, tag)) : [muted("–")])),
      cell(score(version.metrics.train)),
      cell(score(version.metrics.validation)),
      cell(score(version.metrics.test)),
      cell(link(version.batchnorm_digest.slice(7, 19), ...path, "batchnorm")),
      links(servedButton(path), link("weights", ...path, "files", "weights.safetensors"), link("spec", ...path, "files", "spec.json")));
    const below = opened.get(address(...path));
    return below ? [shown, below] : [shown];
  });
}

// The rows that say what serves a version, by its address. A table that is built anew takes them over as they are, so
// that each is measured once.
const opened = new Map();

function servedButton(path) {
  const key = address(...path);
  const button = make("button", { type: "button", ariaExpanded: opened.has(key) }, "served");
  button.addEventListener("click", () => {
    if (opened.has(key)) {
      opened.get(key).remove();
      opened.delete(key);
    } else {
      opened.set(key, servedRow(path));
      button.closest("tr").after(opened.get(key));
    }
    button.ariaExpanded = opened.has(key);
  });
  return button;
}

// The service computes a probe for the answer, and loads the version first where it is not in memory.
function servedRow(path) {
  const place = make("div", { className: "served", ariaLive: "polite" }, muted("measuring…"));
  Promise.all([ask(address(...path, "served")), ask(address(...path))])
    .then(([served, version]) => place.replaceChildren(servedFacts(served, version, path)))
    .catch((error) => place.replaceChildren(make("div", { className: "why" }, error.message)));
  return row(address(...path, "served"), make("td", { role: "cell", colSpan: 8 }, place));
}

function servedFacts(served, version, path) {
  const itself = served.engine === "torch" && !served.folded.length;
  return make("dl", {},
    ...fact("Engine", make("strong", {}, engine(served.engine)), itself ? muted(" – the network as it was trained") : null,
      served.training ? make("div", { className: "why" }, "in training mode") : null),
    ...fact("Difference", ...difference(served, itself)),
    ...(served.mismatch ? fact("Mismatch", make("div", { className: "why" }, served.mismatch)) : []),
    ...(version.classes && !itself && !served.mismatch ? fact("Labels", "the same in every row") : []),
    ...fact("Batch norm", folding(served), list(served.folded, (each) => [layer(each.layer), " into ", layer(each.into)])),
    ...(served.not_folded.length ? fact("Not folded", list(served.not_folded, (each) => [layer(each.layer), muted(`: ${each.reason}`)])) : []),
    ...(served.not_serving.length ? fact("Not serving", list(served.not_serving, (each) => [engine(each.engine), muted(`: ${each.reason}`)])) : []),
    ...fact("State", ...digests(served)),
    ...fact("", link("as JSON", ...path, "served")));
}

const fact = (term, ...description) => [make("dt", {}, term), make("dd", {}, ...description.filter((each) => each))];
const layer = (name) => make("code", {}, name);
const engine = (named) => ENGINES[named] ?? named;
const counting = (count, one, more) => `${number.format(count)} ${count === 1 ? one : more}`;

function list(items, shown) {
  if (!items.length) return null;
  const all = make("ul", {}, ...items.map((each) => make("li", {}, ...shown(each))));
  return items.length > FEW ? make("details", {}, make("summary", {}, `all ${items.length}`), all) : all;
}

function difference(served, itself) {
  if (itself) return [exact(served.max_difference), muted(" – it is what others are measured against")];
  return [
    exact(served.max_difference),
    muted(` from the network in eval mode, on ${counting(served.probe_rows, "row", "rows")}; at most `),
    exact(served.tolerance), muted(" is allowed")];
}

function exact(value) {
  const rounded = Number(value.toPrecision(3));
  return make("span", { className: "exact", title: value }, rounded !== 0 && Math.abs(rounded) < 1e-3 ? rounded.toExponential() : String(rounded));
}

function folding(served) {
  const norms = served.folded.length + served.not_folded.length;
  if (!norms) return "the network has none";
  if (!served.folded.length) return `none of ${norms} folded`;
  const layers = new Set(served.folded.map((each) => each.into)).size;
  return `${served.folded.length} of ${norms} folded into ${counting(layers, "layer", "layers")}`;
}

function digests(served) {
  const found = make("code", {}, served.digest);
  if (served.digest === served.stored_digest) return [found, muted(" recomputed now, as it was stored")];
  return [found, make("div", { className: "why" }, "recomputed now. Stored was ", make("code", {}, served.stored_digest))];
}

function datasetRow(dataset) {
  const rows = Object.entries(dataset.splits).map(([split, count]) => `${number.format(count)} ${split}`).join(" + ");
  const first = dataset.features[0];
  const features = !first ? muted("–")
    : first.shape.length ? `${first.kind === "image" ? "image" : "array"} ${first.shape.join(" × ")}`
    : `${number.format(dataset.features.length)} ${dataset.features.length === 1 ? "column" : "columns"}`;
  const classes = dataset.target?.classes ? `${dataset.target.classes.length} classes` : "number";
  const error = dataset.error ? [make("div", { className: "why" }, `${dataset.error.code}: ${dataset.error.message}`)] : [];
  return row(dataset.id,
    named(dataset.name, ...error),
    cell(pill(dataset.state)),
    cell(rows || muted("–")),
    cell(features),
    cell(dataset.target ? make("span", {}, dataset.target.name, " ", muted(classes)) : muted("–")),
    cell(muted(`${dataset.format} ${size(dataset.bytes)}`)),
    cell(ago(dataset.created_at)),
    links(link("details", "v1", "datasets", dataset.id), dataset.state === "ready" ? link("preview", "v1", "datasets", dataset.id, "preview") : null));
}

const shownBefore = {};

// A table is built anew only when it has changed, so that a selection stays where it is.
function fill(id, page, rows, nothing, also = []) {
  const body = document.getElementById(id);
  const said = JSON.stringify([page, also]);
  for (const time of body.querySelectorAll("time")) time.textContent = since(time.dateTime);
  if (shownBefore[id] === said) return;
  shownBefore[id] = said;
  const shown = page.data.flatMap(rows);
  const heads = [...body.closest("table").tHead.rows[0].cells].map((head) => head.textContent);
  if (!shown.length) shown.push(row("", make("td", { role: "cell", className: "empty", colSpan: heads.length }, nothing)));
  for (const each of shown) label(each.cells, heads);
  keepingFocus(body, () => body.replaceChildren(...shown));
  document.getElementById(`${id}-count`).textContent = page.data.length ? `${page.data.length}${page.has_more ? "+" : ""}` : "";
}

// What a cell is of, for rows too narrow to stand beneath the headings.
function label(cells, heads) {
  for (const each of cells) if (each.colSpan === 1) each.dataset.label = heads[each.cellIndex];
}

// Rows that are taken over lose the focus as well, since they leave the table for a moment.
function keepingFocus(body, build) {
  const before = body.contains(document.activeElement) ? document.activeElement : null;
  const told = before && { key: keyOf(before), focusVisible: before.matches(":focus-visible") };
  build();
  if (!before) return;
  const now = before.isConnected ? before : [...body.querySelectorAll("a, button")].find((each) => keyOf(each) === told.key);
  now?.focus({ preventScroll: true, focusVisible: told.focusVisible });
}

const keyOf = (control) => `${control.closest("tr").dataset.key} ${control.getAttribute("href") ?? control.textContent}`;

async function ask(path) {
  const response = await fetch(path, { headers: { Accept: "application/json", ...authorization() }, cache: "no-store" });
  if (response.status === 401) document.getElementById("entry").hidden = false;
  if (!response.ok) throw new Error(await refusal(response, path));
  return response.json();
}

// The key lives as long as the tab, and no other page sees it.
function authorization() {
  const key = sessionStorage.getItem(KEY);
  return key ? { Authorization: `Bearer ${key}` } : {};
}

function enter(event) {
  event.preventDefault();
  const field = document.getElementById("key");
  sessionStorage.setItem(KEY, field.value.trim());
  field.value = "";
  document.getElementById("entry").hidden = true;
  tellVersion();
  refresh();
}

// A link carries no key: what it leads to is fetched with it, and opened or saved from here.
async function lead(event) {
  const link = event.target.closest('a[href^="/v1/"]');
  if (!link || !sessionStorage.getItem(KEY)) return;
  event.preventDefault();
  const path = link.getAttribute("href");
  const response = await fetch(path, { headers: authorization() }).catch((error) => error);
  if (!response.ok) return say("no answer", "bad", response.headers ? await refusal(response, path) : String(response));
  const type = response.headers.get("Content-Type") ?? "";
  const shown = new Blob([await response.blob()], { type: type.includes("json") ? "application/json" : type });
  const [, file] = /filename="([^"]+)"/.exec(response.headers.get("Content-Disposition") ?? "") ?? [];
  const kept = { href: URL.createObjectURL(shown), ...(file ? { download: file } : { target: "_blank", rel: "noopener" }) };
  make("a", kept).click();
  setTimeout(() => URL.revokeObjectURL(kept.href), MINUTE);  // long after it was opened or saved
}

async function refusal(response, path) {
  const told = response.headers.get("Content-Type")?.startsWith("application/problem+json");
  const problem = told ? await response.json() : { code: response.status, detail: `${path} has no answer.` };
  return `${problem.code}: ${problem.detail}`;
}

function say(state, kind, title) {
  const place = document.getElementById("state");
  place.textContent = state;
  place.className = `pill ${kind}`;
  place.title = title;
}

async function refresh() {
  try {
    const [jobs, models, datasets] = await Promise.all(["jobs", "models", "datasets"].map((what) => ask(`/v1/${what}?limit=50`)));
    const names = new Map(datasets.data.map((dataset) => [dataset.id, dataset.name]));
    fill("jobs", jobs, (job) => jobRow(job, names), "No jobs yet. `gammabeta demo` makes some, or POST /v1/jobs.", [...names]);
    fill("models", models, modelRows, "No models yet. A job that succeeds publishes one.");
    fill("datasets", datasets, datasetRow, "No data sets yet. `gammabeta datasets upload FILE`, or POST /v1/datasets.");
    say("connected", "good", "");
  } catch (error) {
    say("no answer", "bad", String(error));
  }
}

async function follow() {
  if (!document.hidden) await refresh();
  setTimeout(follow, EVERY);
}

function tellVersion() {
  ask("/v1/version").then((answer) => { document.getElementById("version").textContent = answer.version; }).catch(() => {});
}

tellVersion();
document.getElementById("entry").addEventListener("submit", enter);
document.addEventListener("click", lead);
document.addEventListener("visibilitychange", () => { if (!document.hidden) refresh(); });
follow();
