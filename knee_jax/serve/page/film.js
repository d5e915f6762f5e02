// What is shown of a film: its knees with grades, or why there are none.

import * as server from "./server.js";
import { View, ramp } from "./view.js";

const LANDMARKS = { localiser: "found by the localiser", files: "of the film's landmark files" };
const SIDES = { R: "Right knee", L: "Left knee", "": "Knee of unknown side" };

const percent = (share) => `${Math.round(100 * share)} %`;

export function element(tag, text = "", properties = {}) {
  const made = Object.assign(document.createElement(tag), properties);
  made.textContent = text;
  return made;
}

/** The grade or value of a target, in words. */
export function answer(target, row) {
  const value = row[`${target.name}_pred`];
  return target.classes.length ? `${target.title} ${target.classes[value]}` : `${target.title} ${value}`;
}

/** The file's name without its folders, its middle left out where it is long. */
export function short(name, most) {
  const last = [...name.slice(name.lastIndexOf("/") + 1)], half = Math.floor((most - 1) / 2);
  return last.length > most ? `${last.slice(0, half).join("")}…${last.slice(-half).join("")}` : last.join("");
}

/** Words beside a mark: of a `problem`, or of a `note`, which is none. */
export function problem(title, text, className = "problem") {
  const made = element("div", "", { className });
  const words = element("p");
  words.append(element("strong", `${title}: `), text);
  made.append(words);
  return made;
}

export const refused = (row) => problem(row.side ? `${SIDES[row.side]} refused` : "Refused", row.detail);

/** A graded knee; `ready` is given its view once there is one. */
export function figure(job, row, targets, ready) {
  const made = element("figure"), caption = element("figcaption"), canvas = element("canvas");
  canvas.tabIndex = 0;
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `${SIDES[row.side]}: region that was read. ${targets.map((t) => answer(t, row)).join(", ")}`);
  made.append(element("h3", SIDES[row.side]), ...targets.map((target) => headline(target, row)));
  const graded = targets.filter((target) => target.classes.length);
  if (row.notes && row.in_doubt) made.append(problem("Doubt", row.notes, "caution"));
  const words = meaning(graded, row);
  if (words) made.append(element("p", words, { className: "soft" }));
  caption.append(...graded.map((target) => bars(target, row, graded.length > 1)));
  const widths = [["lateral", row.jsw_lateral_mm], ["medial", row.jsw_medial_mm]].filter(([, mm]) => mm != null);
  if (widths.length) {
    const words = widths.map(([side, mm]) => `${side} ${mm.toFixed(1)} mm`).join(", ");
    const error = row.jsw_error_mm == null ? "" : ` (standard error ${row.jsw_error_mm.toFixed(1)} mm)`;
    caption.append(element("p", `Joint space width: ${words}${error}`, { className: "soft" }));
  }
  const angles = [["joint lines", "joint_angle"], ["bones' axes", "axis_angle"]].filter(([, name]) => row[`${name}_deg`] != null);
  if (angles.length) {
    const words = angles.map(([what, name]) => {
      const error = row[`${name}_error_deg`];
      return `${what} ${row[`${name}_deg`].toFixed(1)}°${error == null ? "" : ` (standard error ${error.toFixed(1)}°)`}`;
    });
    caption.append(element("p", `Angles, varus positive: ${words.join(", ")}`, { className: "soft" }));
  }
  made.append(canvas, caption);
  if (row.landmarks_by) caption.append(element("p", `Landmarks: ${LANDMARKS[row.landmarks_by] || row.landmarks_by}`, { className: "soft" }));
  if (row.notes && !row.in_doubt) caption.prepend(problem("Note", row.notes, "note"));
  server.picture(job, row.number)
    .then((picture) => {
      if (picture.heat) caption.prepend(legend(targets[0], row));
      return View.of(canvas, picture, row.side === "" ? null : row.side === "L");
    })
    .then((view) => ready(Object.assign(view, { row })))
    .catch((error) => canvas.replaceWith(problem("No picture", error.message)));
  return made;
}

/** The whole film, with the regions of the knees of some views; and its own view. */
export async function whole(job, views, targets) {
  const made = element("figure", "", { className: "whole" }), canvas = element("canvas");
  canvas.tabIndex = 0;
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", "Whole film, with the regions that were read");
  made.append(element("h3", "Whole film"), canvas, element("figcaption", "Framed: the regions that were read.", { className: "soft" }));
  const outlines = views.map(({ row, picture }) => ({ corners: picture.corners, words: `${row.side ? `${row.side}: ` : ""}${answer(targets[0], row)}` }));
  return [made, await View.whole(canvas, await server.film(job, views[0].row.number), outlines)];
}

/** The scale of the evidence, and what it speaks for. */
function legend(target, row) {
  const made = element("p", "", { className: "legend soft" });
  const what = target.classes.length ? answer(target, row) : `a high ${target.title}`;
  const colours = element("img", "", { className: "ramp", src: ramp().toDataURL(), alt: "" });
  made.append(element("strong", `Evidence for ${what}: `), "none ", colours, " most, in this knee");
  return made;
}

/** What the confidence says, and why it is not the percentage of the bar; '' if there is none. */
function meaning(targets, row) {
  const told = targets.find((target) => row[`${target.name}_confidence`] != null);
  if (!told) return "";
  if (!row[`${told.name}_calibrated`]) return "The confidence is the model's own highest bar: nobody has checked how often it is right.";
  const share = percent(row[`${told.name}_confidence`]);
  return `Of the knees that the model was validated on, about ${share} of those with such a confidence were graded right; the bars below are the model's raw probabilities, and may differ.`;
}

/** The grade, above the picture: it is what one looks for. */
function headline(target, row) {
  const made = element("p", "", { className: "answer" });
  made.append(element("strong", answer(target, row)));
  if (!target.classes.length) return made;
  const confidence = row[`${target.name}_confidence`];
  const kind = row[`${target.name}_calibrated`] ? "calibrated" : "not calibrated";
  const words = confidence == null ? "no confidence is told" : `confidence ${percent(confidence)} (${kind})`;
  made.append(" ", element("span", words, { className: "soft" }));
  return made;
}

function bars(target, row, isNamed) {
  const made = element("div", "", { className: "probabilities" }), grid = element("dl", "", { className: "bars" });
  if (isNamed) made.append(element("p", target.title, { className: "soft" }));
  target.columns.forEach((column, index) => {
    const most = index === row[`${target.name}_pred`] ? "most" : "";
    const bar = element("dd", "", { className: "bar" }), filled = element("i");
    filled.style.width = `${100 * row[column]}%`;
    bar.append(filled);
    grid.append(element("dt", target.classes[index], { className: most }), bar, element("dd", percent(row[column]), { className: most }));
  });
  made.append(grid);
  return made;
}
