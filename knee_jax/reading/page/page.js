"use strict";

// Blind reading: digits give the grade in question, and the next one follows; all text is set as
// text, never as markup.

const at = (id) => document.getElementById(id);
const state = { reader: "", token: "", grades: [], place: 0, number: 0, values: {}, now: 0, busy: false };
const view = { scale: 1, x: 0, y: 0, brightness: 1, contrast: 1 };

async function ask(path, options = {}) {
  const headers = state.token ? { Authorization: `Bearer ${state.token}` } : {};
  const answer = await fetch(path, { ...options, headers: { ...headers, ...options.headers } });
  if (!answer.ok) {
    if (answer.status === 401) document.querySelectorAll(".token").forEach((each) => { each.hidden = false; });
    const body = await answer.json().catch(() => ({}));
    throw new Error(body.detail || `the server answered ${answer.status}`);
  }
  return answer;
}

const post = (path, method, body) =>
  ask(path, { method, headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });

const base = () => `readers/${encodeURIComponent(state.reader)}`;

at("join").addEventListener("submit", async (event) => {
  event.preventDefault();
  state.reader = at("name").value.trim();
  state.token = at("token").value.trim();
  try {
    const joined = await (await post("readers", "POST", { name: state.reader })).json();
    Object.assign(state, { grades: joined.grades, number: joined.number });
    at("who").hidden = true;
    at("read").hidden = false;
    at("reader").textContent = state.reader;
    drawGrades();
    await show(joined.next === null ? joined.number - 1 : joined.next);
  } catch (problem) {
    at("problem").textContent = problem.message;
  }
});

function drawGrades() {
  at("grades").replaceChildren(...state.grades.map((grade, row) => {
    const line = document.createElement("div");
    line.className = "grade";
    line.role = "group";
    line.ariaLabel = grade.title;
    const title = document.createElement("span");
    title.className = "title";
    title.textContent = grade.title;
    line.append(title, ...grade.classes.map((name, value) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = name;
      button.addEventListener("click", () => { state.now = row; give(value); });
      return button;
    }));
    return line;
  }));
  document.querySelector(".keys").textContent =
    "Keys: digits give the marked grade; up and down mark another; left and right go to other knees; " +
    "+ and - zoom; b, B, c, C change brightness and contrast; 0 with Alt shows the whole knee.";
}

async function show(place) {
  const found = await (await ask(`${base()}/places/${place}`)).json();
  Object.assign(state, { place, number: found.number, values: found.values });
  const open = state.grades.findIndex((grade) => !(grade.name in state.values));
  state.now = Math.max(open, 0);
  Object.assign(view, { scale: 1, x: 0, y: 0, brightness: 1, contrast: 1 });
  await picture(place);
  at("where").textContent = `Knee ${place + 1} of ${found.number}`;
  at("done").max = found.number;
  at("done").value = found.done;
  if (found.done === found.number) at("saved").textContent = "All knees are read. Thank you.";
  mark();
}

// One thing at a time: a key that is pressed before the next knee is seen would be a grade of that one.
const alone = (act) => async (...given) => {
  if (state.busy) return;
  state.busy = true;
  try {
    await act(...given);
  } catch (problem) {
    at("saved").classList.add("failed");
    at("saved").textContent = `Not done: ${problem.message}`;
  } finally {
    state.busy = false;
  }
};

async function picture(place) {
  const blob = await (await ask(`${base()}/places/${place}/picture`)).blob();
  URL.revokeObjectURL(at("picture").src);
  at("picture").src = URL.createObjectURL(blob);
  look();
}

function look() {
  const image = at("picture");
  image.style.transform = `translate(${view.x}px, ${view.y}px) scale(${view.scale})`;
  image.style.filter = `brightness(${view.brightness}) contrast(${view.contrast})`;
}

function mark() {
  [...at("grades").children].forEach((line, row) => {
    const grade = state.grades[row];
    line.classList.toggle("now", row === state.now);
    line.querySelectorAll("button").forEach((button, value) => {
      button.setAttribute("aria-pressed", String(state.values[grade.name] === value));
    });
  });
  at("grades").children[state.now].scrollIntoView({ block: "nearest" });
}

const give = alone(async (value) => {
  const grade = state.grades[state.now];
  if (!grade) return;
  if (value >= grade.classes.length) throw new Error(`${grade.title} is from 0 to ${grade.classes.length - 1}`);
  await post(`${base()}/places/${state.place}/${grade.name}`, "PUT", { value });
  state.values[grade.name] = value;
  at("saved").classList.remove("failed");
  at("saved").textContent = `${grade.title} ${grade.classes[value]} is saved.`;
  const open = state.grades.findIndex((each) => !(each.name in state.values));
  if (open >= 0) {
    state.now = open;
    mark();
  } else {
    await show(Math.min(state.place + 1, state.number - 1));
  }
});

const go = alone(async (by) => {
  const place = state.place + by;
  at("saved").textContent = "";
  if (place >= 0 && place < state.number) await show(place);
});

function zoom(by) {
  view.scale = Math.min(8, Math.max(1, view.scale * by));
  if (view.scale === 1) Object.assign(view, { x: 0, y: 0 });
  look();
}

const tuned = (name, by) => { view[name] = Math.min(4, Math.max(0.25, view[name] * by)); look(); };

for (const [id, act] of Object.entries({
  back: () => go(-1), forth: () => go(1), larger: () => zoom(1.25), smaller: () => zoom(0.8),
  brighter: () => tuned("brightness", 1.15), darker: () => tuned("brightness", 1 / 1.15),
})) at(id).addEventListener("click", act);

const KEYS = {
  ArrowRight: () => go(1),
  ArrowLeft: () => go(-1),
  ArrowDown: () => { state.now = (state.now + 1) % state.grades.length; mark(); },
  ArrowUp: () => { state.now = (state.now + state.grades.length - 1) % state.grades.length; mark(); },
  "+": () => zoom(1.25), "=": () => zoom(1.25), "-": () => zoom(0.8),
  b: () => tuned("brightness", 1.15), B: () => tuned("brightness", 1 / 1.15),
  c: () => tuned("contrast", 1.15), C: () => tuned("contrast", 1 / 1.15),
};

document.addEventListener("keydown", (event) => {
  if (at("read").hidden || event.ctrlKey || event.metaKey) return;
  if (event.altKey && event.key === "0") { Object.assign(view, { scale: 1, x: 0, y: 0 }); look(); }
  else if (event.altKey) return;
  else if (/^[0-9]$/.test(event.key)) give(Number(event.key));
  else if (KEYS[event.key]) KEYS[event.key]();
  else return;
  event.preventDefault();
});

at("film").addEventListener("wheel", (event) => { event.preventDefault(); zoom(event.deltaY < 0 ? 1.15 : 1 / 1.15); }, { passive: false });
at("film").addEventListener("pointermove", (event) => {
  if (event.buttons !== 1 || view.scale === 1) return;
  view.x += event.movementX;
  view.y += event.movementY;
  look();
});
