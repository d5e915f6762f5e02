// The sitting: films that were dropped, the list of them, and the one that is shown.
// Names of files are text, and never markup: everything is made by `textContent`.

import * as server from "./server.js";
import { answer, element, figure, problem, refused, short, whole } from "./film.js";
import { look } from "./view.js";

const AT_ONCE = 3, CLEAR = "Clear the sitting";
const $ = (id) => document.getElementById(id);

// Files that are no pictures, which a folder brings along, are no films: `strays`.
const NO_PICTURE = ["not_dicom", "index_of_files"], OF_PICTURES = /\.(dcm|dicom|png|jpe?g|tiff?)$/i;

let about = null, films = [], strays = [], shown = null, views = [];
const waiting = [];
let sending = 0;

const byName = ([a], [b]) => a.localeCompare(b, undefined, { numeric: true });
const tell = (text) => { $("status").textContent = text; };

// Films are sent one by one, each with its landmark files, so that each is refused by itself.
function add(files) {
  const names = new Map(files.map(([name, file]) => [name, file]));
  const isMark = (name) => name.toLowerCase().endsWith(".pts");
  const marksFilm = (name) => [".pts", "_f.pts"].some((end) => name.endsWith(end) && names.has(name.slice(0, -end.length)));
  const isHidden = (name) => name.split("/").some((part) => part.startsWith("."));
  for (const [name, file] of files) {
    if (isHidden(name)) strays.push({ name, why: "hidden, not sent" });
    else if (isMark(name) && !marksFilm(name)) strays.push({ name, why: "landmarks of no film that is here, not sent: those of film.dcm are film.dcm.pts (left) and film.dcm_f.pts (right)" });
    if (isMark(name) || isHidden(name)) continue;
    const marks = [".pts", "_f.pts"].map((end) => name + end).filter((mark) => names.has(mark));
    const film = { name, rows: [], state: "waiting", job: null };
    film.files = [[name, file], ...marks.map((mark) => [mark, names.get(mark)])];
    films.push(film);
    waiting.push(film);
  }
  if (waiting.length) count();
  else tell("No film or picture is among these files.");
  list();
  if (!shown && films.length) show(films[0]);
  send();
}

function send() {
  while (sending < AT_ONCE && waiting.length) {
    sending++;
    grade(waiting.shift()).finally(() => { sending--; send(); });
  }
}

// A sitting may be cleared while its films are graded; what comes of them then is forgotten.
const isGone = (film) => !films.includes(film);

async function grade(film) {
  const say = (state) => { film.state = state; if (!isGone(film)) list(); if (shown === film) show(film); };
  const size = film.files.reduce((sum, [, file]) => sum + file.size, 0);
  try {
    if (about && size > about.limits.upload_mb * 2 ** 20) {
      throw new server.Refused(413, `The file is larger than ${about.limits.upload_mb} MiB, the most that this server takes at once.`);
    }
    say("sending");
    const job = await server.submit(film.files, say);
    film.job = job.id;
    film.files = [];
    if (isGone(film)) { server.forget(job.id); return; }
    await server.finished(job, say);
    const { rows } = await server.results([job.id]);
    if (isGone(film)) return;
    put(film, rows);
    remember();
  } catch (error) {
    if (isGone(film)) return;
    film.lost = error.status === 0;
    // What no server has seen can be sent again.
    if (!film.lost) film.files = [];
    film.problem = error.message;
    say(film.lost ? "not sent" : "refused");
    if (error.status === 401) askForToken();
  }
  count();
}

function count() {
  const left = films.filter((each) => !each.done && !each.problem).length;
  const lost = films.filter((film) => film.lost).length, doubtful = films.filter((film) => film.rows.some((row) => row.in_doubt)).length;
  const refused = films.filter((film) => (film.problem && !film.lost) || film.rows.some((row) => row.status === "refused")).length;
  const words = [`${films.length} ${films.length === 1 ? "film" : "films"} in this sitting`];
  if (refused) words.push(`${refused} with a refusal`);
  if (doubtful) words.push(`${doubtful} in doubt`);
  if (lost) words.push(`${lost} not sent`);
  tell(left ? `${left} still to be graded.` : `${words.join(", ")}.`);
}

function again(film) {
  Object.assign(film, { problem: "", lost: false, state: "waiting" });
  waiting.push(film);
  show(film);
  send();
}

// An archive becomes as many films as it holds.
function put(film, rows) {
  const groups = new Map();
  rows.forEach((row, number) => {
    if (!groups.has(row.file)) groups.set(row.file, []);
    groups.get(row.file).push({ ...row, number });
  });
  const made = [...groups].map(([name, found]) => ({ name, rows: found, job: film.job, done: true, state: "" }));
  const isStray = ({ name, rows: found }) => NO_PICTURE.includes(found[0].reason) && !OF_PICTURES.test(name);
  const kept = made.filter((each) => !isStray(each)), place = films.indexOf(film);
  const why = { not_dicom: "neither a film nor a picture", index_of_files: "an index of other files" };
  strays.push(...made.filter(isStray).map((each) => ({ ...each, why: why[each.rows[0].reason] })));
  films.splice(place, 1, ...kept);
  list();
  if (shown === film) show(films[place] || films[place - 1] || null);
}

function summary(film) {
  if (film.problem) return `${film.lost ? "not sent" : "refused"}: ${film.problem}`;
  if (!film.done) return film.state;
  return film.rows.map((row) => {
    const side = row.side ? `${row.side}: ` : "";
    if (row.status === "refused") return `${side}refused`;
    return side + about.targets.map((target) => answer(target, row)).join(", ") + (row.in_doubt ? ", in doubt" : "");
  }).join(" · ");
}

function list() {
  const focused = document.activeElement?.dataset?.place;
  const begun = films.length + strays.length > 0;
  $("sitting").hidden = !begun;
  $("film").hidden = $("list").hidden = !films.length;
  document.body.classList.toggle("begun", begun);
  $("strays").hidden = !strays.length;
  $("strays").querySelector("summary").textContent = strays.length === 1 ? "1 file is no picture" : `${strays.length} files are no pictures`;
  $("strays").querySelector("ul").replaceChildren(...strays.map(({ name, why }) => {
    const item = element("li", name);
    item.append(element("span", why));
    return item;
  }));
  $("list").replaceChildren(...films.map((film, place) => {
    const button = element("button", short(film.name, 28), { type: "button", title: film.name });
    button.dataset.place = place;
    const folder = film.name.slice(0, Math.max(0, film.name.lastIndexOf("/")));
    if (folder) button.append(element("span", folder.replace(/^.*(\/[^/]+\/[^/]+)$/, "…$1"), { className: "folder" }));
    button.append(element("span", summary(film), { className: "found" }));
    if (film === shown) button.setAttribute("aria-current", "true");
    button.addEventListener("click", () => {
      show(film);
      // On a phone the film is above the list.
      if ($("film").getBoundingClientRect().bottom < 0 || matchMedia("(max-width: 760px)").matches) $("film").scrollIntoView();
    });
    const item = element("li");
    item.classList.toggle("bad", Boolean(film.problem) || film.rows.some((row) => row.status === "refused"));
    item.append(button);
    return item;
  }));
  if (focused !== undefined) $("list").querySelector(`[data-place="${focused}"]`)?.focus();
  const ids = jobs(), place = films.indexOf(shown);
  for (const id of ["csv", "json", "html"]) $(id).disabled = !ids.length;
  $("place").textContent = `${place + 1} of ${films.length}`;
  $("previous").disabled = place <= 0;
  $("next").disabled = place === films.length - 1;
}

const jobs = () => [...new Set([...films, ...strays].filter((film) => film.done).map((film) => film.job))];
const remember = () => sessionStorage.setItem("jobs", JSON.stringify(jobs()));

async function show(film) {
  shown = film;
  views = [];
  $("wholes").hidden = true;
  list();
  if (!film) { $("knees").replaceChildren(); $("film-title").textContent = ""; return; }
  $("list").querySelector("[aria-current]")?.scrollIntoView({ block: "nearest" });
  Object.assign($("film-title"), { textContent: short(film.name, 60), title: film.name });
  $("path").textContent = film.name;
  if (film.lost) {
    const button = element("button", "Try again", { type: "button" });
    button.addEventListener("click", () => again(film));
    $("knees").replaceChildren(problem("Not sent", film.problem), button);
  } else if (film.problem) $("knees").replaceChildren(problem("Refused", film.problem));
  else if (!film.done) $("knees").replaceChildren(element("p", `${film.state}…`));
  else $("knees").replaceChildren(...film.rows.map((row) => (row.status === "refused" ? refused(row) : figure(film.job, row, about.targets, (view) => { if (shown === film) { views.push(view); reframe(); } }))));
  $("tools").hidden = $("lie").hidden = !film.rows.some((row) => row.picture);
}

/** Show the whole film above its knees, or take it away. */
async function frame() {
  const film = shown, cut = views.filter((view) => view.picture.corners);
  const isWanted = () => shown === film && $("whole").checked && !$("knees").querySelector(".whole");
  $("wholes").hidden = !cut.length;
  if (!$("whole").checked) {
    $("knees").querySelector(".whole")?.remove();
    views = views.filter((view) => !view.picture.outlines);
  }
  if (!cut.length || views.length < film.rows.filter((row) => row.picture).length || !isWanted()) return;
  const [made, view] = await whole(film.job, cut, about.targets);
  if (!isWanted()) return;
  $("knees").prepend(made);
  views.push(view);
}

const reframe = () => frame().catch((error) => tell(error.message));

function step(by) {
  const next = films[films.indexOf(shown) + by];
  if (next) show(next);
}

const redraw = () => views.forEach((view) => view.draw());
const magnify = (factor) => views.forEach((view) => view.magnify(factor));
function reset() {
  Object.assign(look, { level: 128, window: 255 });
  $("level").value = look.level;
  $("window").value = look.window;
  views.forEach((view) => view.reset());
}

const KEYS = {
  n: () => step(1), p: () => step(-1), l: () => $("landmarks").click(), e: () => $("heat").click(), w: () => $("wholes").hidden || $("whole").click(),
  "+": () => magnify(1.25), "=": () => magnify(1.25), "-": () => magnify(0.8), 0: reset,
};

// A folder that is dropped is walked through; its names keep their places in it.
async function walk(entry, into) {
  if (entry.isFile) {
    const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
    into.push([entry.fullPath.replace(/^\//, ""), file]);
  } else if (entry.isDirectory) {
    const reader = entry.createReader();
    for (;;) {
      const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
      if (!some.length) return;
      for (const each of some) await walk(each, into);
    }
  }
}

async function dropped(event) {
  event.preventDefault();
  document.body.classList.remove("over");
  const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean), found = [];
  for (const entry of entries) await walk(entry, found);
  add(found.sort(byName));
}

function chosen(input) {
  add([...input.files].map((file) => [file.webkitRelativePath || file.name, file]).sort(byName));
  input.value = "";
}

function askForToken() {
  $("token").hidden = false;
  $("word").focus();
}

async function connect() {
  try {
    about = await server.about();
    $("token").hidden = true;
    $("model").textContent = `Model: ${about.model} (knee_jax ${about.knee_jax})`;
    $("card").hidden = !about.has_card;
    for (const id of JSON.parse(sessionStorage.getItem("jobs") || "[]")) {
      const film = { name: "", rows: [], job: id };
      films.push(film);
      await server.results([id]).then(({ rows }) => put(film, rows), () => films.splice(films.indexOf(film), 1));
    }
    if (films.length && !shown) { show(films[0]); count(); }
  } catch (error) {
    $("model").textContent = error.message;
    if (error.status === 401) askForToken();
    else setTimeout(connect, 1000 * (error.wait || 5));
  }
}

$("card").addEventListener("toggle", async () => {
  const text = $("card").querySelector("pre");
  if (!text.textContent) text.textContent = await server.card().catch((error) => error.message);
});
for (const input of [$("files"), $("folder")]) input.addEventListener("change", () => chosen(input));
for (const id of ["landmarks", "heat"]) $(id).addEventListener("change", () => { look[id] = $(id).checked; redraw(); });
for (const id of ["level", "window"]) $(id).addEventListener("input", () => { look[id] = Number($(id).value); redraw(); });
for (const kind of ["csv", "json", "html"]) $(kind).addEventListener("click", () => server.download(jobs(), kind).catch((error) => tell(error.message)));
$("heat").addEventListener("change", () => { $("opacities").hidden = !look.heat; document.body.classList.toggle("heated", look.heat); });
$("whole").addEventListener("change", reframe);
$("opacity").addEventListener("input", () => { look.opacity = $("opacity").value / 100; redraw(); });
$("previous").addEventListener("click", KEYS.p);
$("next").addEventListener("click", KEYS.n);
$("in").addEventListener("click", KEYS["+"]);
$("out").addEventListener("click", KEYS["-"]);
$("reset").addEventListener("click", reset);
$("clear").addEventListener("blur", () => { $("clear").textContent = CLEAR; });
$("clear").addEventListener("click", () => {
  // Nothing brings a sitting back.
  if ($("clear").textContent === CLEAR) { $("clear").textContent = "Clear it for good"; return; }
  $("clear").textContent = CLEAR;
  server.abandon();
  new Set([...films, ...strays].map((film) => film.job).filter(Boolean)).forEach(server.forget);
  [films, strays, waiting.length, shown] = [[], [], 0, null];
  remember();
  show(null);
  tell("The sitting is cleared, here and on the server.");
  $("files").focus();
});
$("token").addEventListener("submit", (event) => {
  event.preventDefault();
  server.useToken($("word").value.trim());
  connect();
});
document.addEventListener("dragover", (event) => { event.preventDefault(); document.body.classList.add("over"); });
document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) document.body.classList.remove("over"); });
document.addEventListener("drop", dropped);
document.addEventListener("keydown", (event) => {
  const types = event.target.matches("input:not([type=checkbox], [type=range], [type=file]), textarea");
  if (types || event.ctrlKey || event.metaKey || event.altKey) return;
  KEYS[event.key.toLowerCase()]?.();
});
connect();
