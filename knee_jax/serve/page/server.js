// What the page asks of the server, and nothing else: every address is relative to the page.

let token = sessionStorage.getItem("token") || "";

export function useToken(word) {
  token = word;
  sessionStorage.setItem("token", word);
}

/** Refusal of the server: its status, and its sentence. */
export class Refused extends Error {
  constructor(status, sentence, wait) {
    super(sentence);
    this.status = status;
    this.wait = wait;
  }
}

let questions = new AbortController();

/** Wait for no answer any more; what is being sent or deleted is done to its end. */
export function abandon() {
  questions.abort();
  questions = new AbortController();
}

async function ask(path, options = { signal: questions.signal }) {
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  let answer;
  try {
    answer = await fetch(path, { ...options, headers });
  } catch {
    throw new Refused(0, "The server does not answer, or broke off the upload; is it running?");
  }
  if (answer.ok) return answer;
  const told = await answer.json().catch(() => ({}));
  const wait = Number(answer.headers.get("Retry-After")) || 0;
  throw new Refused(answer.status, told.detail || `The server answered ${answer.status}.`, wait);
}

export const about = async () => (await ask("about")).json();
export const card = async () => (await ask("card")).text();
export const results = async (ids) => (await ask(`jobs/${ids.join(",")}/results.json`)).json();
export const picture = async (id, number) => (await ask(`jobs/${id}/knees/${number}`)).json();
export const film = async (id, number) => (await ask(`jobs/${id}/knees/${number}/film`)).blob();
export const forget = (id) => ask(`jobs/${id}`, { method: "DELETE" }).catch(() => {});

/** Send some files as one request, and return its state. */
export async function submit(files, tell) {
  const form = new FormData();
  for (const [name, file] of files) form.append("files", file, name);
  let job;
  for (let tries = 0; !job; tries++) {
    try {
      job = await (await ask("jobs", { method: "POST", body: form })).json();
    } catch (error) {
      const isBusy = error.status === 503 || error.status === 429;
      if (!isBusy || !error.wait || tries === 20) throw error;
      tell("waiting for the server, which is busy");
      await new Promise((resolve) => setTimeout(resolve, 1000 * error.wait));
    }
  }
  return job;
}

/** Wait until a request is graded. */
export async function finished(job, tell) {
  while (job.state === "queued" || job.state === "running") {
    tell(job.files > 1 ? `grading: ${job.done} of ${job.files} files` : "grading");
    job = await (await ask(`jobs/${job.id}?wait=${job.files > 1 ? 2 : 30}`)).json();
  }
}

/** Save the results of all requests as a file. */
export async function download(ids, kind) {
  const answer = await ask(`jobs/${ids.join(",")}/results.${kind}`);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await answer.blob());
  link.download = { csv: "predictions.csv", json: "predictions.json", html: "graded.html" }[kind];
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}
