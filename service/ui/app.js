// Shows jobs, models and data sets. Everything that a user wrote reaches the page as text, never as markup.

const EVERY = 2000;
const KIND_OF_STATE = {
  succeeded: "good", ready: "good",
  running: "busy", validating: "busy",
  queued: "wait", retrying: "wait", cancelling: "wait", paused: "wait",
  failed: "bad",
};

const UNITS = [[86400, "d"], [3600, "h"], [60, "min"]];

const number = new Intl.NumberFormat("en");

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

const cell = (...children) => make("td", {}, ...children);
const muted = (text) => make("span", { className: "muted" }, text);
const small = (text) => make("div", { className: "muted small" }, text);
const pill = (state) => make("span", { className: `pill ${KIND_OF_STATE[state] ?? ""}` }, state);
const link = (text, ...path) => make("a", { href: "/" + path.map(encodeURIComponent).join("/") }, text);
const links = (...all) => make("td", { className: "links" }, ...all);
const short = (child, title) => make("td", { className: "short", title: title ?? "" }, child);
const named = (text, ...below) => make("td", { className: "name", title: text }, text, ...below);

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
  if (typeof metrics.accuracy === "number") return `${(100 * metrics.accuracy).toFixed(2)} %`;
  if (typeof metrics.mae === "number") return `mae ${metrics.mae.toPrecision(3)}`;
  return typeof metrics.loss === "number" ? `loss ${metrics.loss.toPrecision(3)}` : muted("–");
}

function measured(metrics) {
  const order = ["val_accuracy", "accuracy", "val_mae", "mae", "val_loss", "loss"];
  const shown = order.filter((name) => typeof metrics?.[name] === "number").slice(0, 2);
  if (!shown.length) return [muted("–")];
  return shown.map((name) => {
    const value = metrics[name];
    const text = name.endsWith("accuracy") ? `${(100 * value).toFixed(2)} %` : value.toPrecision(4);
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

// A prediction has a file, once it has succeeded, and no series.
function made(job) {
  if (job.kind !== "predict") return link("metrics", "v1", "jobs", job.id, "metrics");
  return job.result?.file ? link("file", ...job.result.file.split("/").filter(Boolean)) : "";
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
  return make("tr", {},
    cell(link(job.kind, "v1", "jobs", job.id), make("div", {}, make("code", { title: job.id }, job.id.slice(0, 16) + "…"))),
    cell(pill(job.status), job.device ? small(job.device) : null, ...attempts),
    cell(progress(job), ...job.warnings.map((each) => make("div", { className: "warned", title: each.code }, each.message))),
    short(model, job.model),
    short(dataset, names.get(job.dataset)),
    cell(...results(job)),
    cell(ago(job.created_at)),
    links(link("events", "v1", "jobs", job.id, "events"), made(job)));
}

function modelRows(model) {
  return model.versions.map((version, index) => {
    const path = ["v1", "models", model.name, "versions", version.version];
    const aliases = Object.entries(model.aliases).filter(([, named]) => named === version.version);
    const newest = index === 0 && !("production" in model.aliases) ? [make("span", { className: "tag" }, "newest")] : [];
    return make("tr", {},
      named(index === 0 ? model.name : ""),
      cell(link(version.version, ...path), " ", ago(version.created_at)),
      cell(...aliases.map(([alias]) => make("span", { className: "tag" }, alias)), ...newest),
      cell(score(version.metrics.train)),
      cell(score(version.metrics.validation)),
      cell(score(version.metrics.test)),
      cell(link(version.batchnorm_digest.slice(7, 19), ...path, "batchnorm")),
      links(link("served", ...path, "served"), link("weights", ...path, "files", "weights.safetensors"), link("spec", ...path, "files", "spec.json")));
  });
}

function datasetRow(dataset) {
  const rows = Object.entries(dataset.splits).map(([split, count]) => `${number.format(count)} ${split}`).join(" + ");
  const first = dataset.features[0];
  const features = !first ? muted("–")
    : first.shape.length ? `${first.kind === "image" ? "image" : "array"} ${first.shape.join(" × ")}`
    : `${number.format(dataset.features.length)} ${dataset.features.length === 1 ? "column" : "columns"}`;
  const classes = dataset.target?.classes ? `${dataset.target.classes.length} classes` : "number";
  const error = dataset.error ? [make("div", { className: "why" }, `${dataset.error.code}: ${dataset.error.message}`)] : [];
  return make("tr", {},
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

// A table is built anew only when it has changed, so that the focus and a selection stay where they are.
function fill(id, page, rows, columns, nothing, also = []) {
  const body = document.getElementById(id);
  const said = JSON.stringify([page, also]);
  for (const time of body.querySelectorAll("time")) time.textContent = since(time.dateTime);
  if (shownBefore[id] === said) return;
  shownBefore[id] = said;
  const shown = page.data.flatMap(rows);
  body.replaceChildren(...(shown.length ? shown : [make("tr", {}, make("td", { className: "empty", colSpan: columns }, nothing))]));
  document.getElementById(`${id}-count`).textContent = page.data.length ? `${page.data.length}${page.has_more ? "+" : ""}` : "";
}

async function ask(path) {
  const response = await fetch(path, { headers: { Accept: "application/json" }, cache: "no-store" });
  if (!response.ok) throw new Error(`${path} answered ${response.status}`);
  return response.json();
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
    fill("jobs", jobs, (job) => jobRow(job, names), 8, "No jobs yet. `gammabeta demo` makes some, or POST /v1/jobs.", [...names]);
    fill("models", models, modelRows, 8, "No models yet. A job that succeeds publishes one.");
    fill("datasets", datasets, datasetRow, 8, "No data sets yet. `gammabeta datasets upload FILE`, or POST /v1/datasets.");
    say("connected", "good", "");
  } catch (error) {
    say("no answer", "bad", String(error));
  }
}

async function follow() {
  if (!document.hidden) await refresh();
  setTimeout(follow, EVERY);
}

ask("/v1/version").then((answer) => { document.getElementById("version").textContent = answer.version; }).catch(() => {});
document.addEventListener("visibilitychange", () => { if (!document.hidden) refresh(); });
follow();
