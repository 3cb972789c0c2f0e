// Talks to the server: questions, news, and the stream of pictures. It comes back by itself.

export class Failure extends Error {
  constructor(status, { message, hint = "" }) {
    super(message);
    Object.assign(this, { status, hint });
  }
}

// ---- questions

export async function ask(path, options = {}) {
  let answer;
  try {
    answer = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure(0, { message: "The server does not answer." });
  }
  if (answer.ok) return answer;
  const { error } = await answer.json().catch(() => ({}));
  if (answer.status === 401) link.closed();
  throw new Failure(answer.status, error ?? { message: `The server failed (${answer.status}).` });
}

export const get = async (path) => (await ask(path)).json();
export const remove = async (path) => (await ask(path, { method: "DELETE" })).json();

// ---- news

const FIRST = 500; // milliseconds before the first try to come back; doubled up to
const MOST = 8000;
const SILENCE = 10_000; // the state comes every two seconds; after this the server has gone
const HIDDEN = 20_000; // after which a page that nobody sees asks for nothing

// Hears the news, and knows whether the server is there: "waiting", "good", "lost" or "closed".
class Link extends EventTarget {
  state = "waiting";
  retry = 0;
  #source = null;
  #wait = FIRST;
  #timer = 0;
  #silence = 0;
  #run = null;

  start() {
    document.addEventListener("visibilitychange", () => this.#seen());
    addEventListener("online", () => this.now());
    this.#open();
  }

  // Tries at once.
  now() {
    if (this.state !== "lost") return;
    clearTimeout(this.#timer);
    this.#open();
  }

  closed() {
    this.#end();
    this.#become("closed");
  }

  #open() {
    this.#end();
    const source = this.#source = new EventSource("/api/news");
    for (const kind of ["hello", "state", "event", "gone"]) {
      source.addEventListener(kind, (event) => this.#heard(kind, JSON.parse(event.data)));
    }
    source.addEventListener("error", () => this.#lost());
    this.#listen();
  }

  #heard(kind, data) {
    this.#listen();
    if (kind === "hello") {
      this.#wait = FIRST;
      const again = this.#run !== null;
      const restarted = again && this.#run !== data.run;
      this.#run = data.run;
      this.#tell("hello", { ...data, again, restarted });
      this.#become("good");
    } else this.#tell(kind, data);
  }

  #listen() {
    clearTimeout(this.#silence);
    this.#silence = setTimeout(() => this.#lost(), SILENCE);
  }

  async #lost() {
    this.#end();
    if (this.state === "closed") return;
    const wait = this.#wait * (0.75 + Math.random() / 2);
    this.#wait = Math.min(MOST, this.#wait * 2);
    this.retry = Date.now() + wait;
    this.#become("lost");
    this.#timer = setTimeout(() => this.#again(), wait);
  }

  // An event source does not say why it failed; a question does.
  async #again() {
    try {
      await ask("/api/state");
    } catch (failure) {
      if (this.state === "closed") return;
      this.said = failure.status ? failure : null;
      this.#lost();
      return;
    }
    this.#open();
  }

  #seen() {
    clearTimeout(this.#timer);
    if (document.hidden) {
      this.#timer = setTimeout(() => {
        this.#end();
        if (this.state === "good") this.#become("waiting");
      }, HIDDEN);
    } else if (this.#source === null && this.state !== "closed") this.#open();
  }

  #end() {
    this.#source?.close();
    this.#source = null;
    clearTimeout(this.#timer);
    clearTimeout(this.#silence);
  }

  #become(state) {
    this.state = state;
    this.#tell("link", state);
  }

  #tell(kind, detail) {
    this.dispatchEvent(new CustomEvent(kind, { detail }));
  }
}

export const link = new Link();

// ---- pictures

const QUIET = 15_000; // milliseconds without any word, after which a stream is asked for again

// Puts together what arrives in pieces of any size.
class Bytes {
  constructor(reader) {
    Object.assign(this, { reader, rest: new Uint8Array(0) });
  }

  async take(count) {
    if (this.rest.length < count) {
      const pieces = [this.rest];
      let have = this.rest.length;
      while (have < count) {
        const { value, done } = await this.reader.read();
        if (done) throw new Failure(0, { message: "The stream ended." });
        pieces.push(value);
        have += value.length;
      }
      this.rest = new Uint8Array(have);
      let at = 0;
      for (const piece of pieces) {
        this.rest.set(piece, at);
        at += piece.length;
      }
    }
    const taken = this.rest.subarray(0, count);
    this.rest = this.rest.subarray(count);
    return taken;
  }
}

// Shows the newest pictures of some cameras, until it is stopped; `show(header, bitmap)` is awaited,
// so that a slow phone gets fewer pictures and no old ones.
export class Pictures {
  #abort = null;
  #key = "";

  constructor(show, failed) {
    Object.assign(this, { show, failed });
  }

  want(cameras, width) {
    const key = cameras.length ? `/live?${new URLSearchParams({ cameras: cameras.join(","), width })}` : "";
    if (key === this.#key) return;
    this.stop();
    this.#key = key;
    if (key) this.#run(key, (this.#abort = new AbortController()).signal);
  }

  stop() {
    this.#abort?.abort();
    this.#abort = null;
    this.#key = "";
  }

  async #run(path, signal) {
    let wait = FIRST;
    while (!signal.aborted) {
      try {
        await this.#read(path, signal, () => { wait = FIRST; });
      } catch (failure) {
        if (signal.aborted) return;
        if (failure.status) this.failed(failure);
      }
      await new Promise((done) => setTimeout(done, wait));
      wait = Math.min(MOST, wait * 2);
    }
  }

  async #read(path, signal, good) {
    const mine = new AbortController();
    const stop = () => mine.abort();
    signal.addEventListener("abort", stop);
    let silence = setTimeout(stop, QUIET);
    try {
      const bytes = new Bytes((await ask(path, { signal: mine.signal })).body.getReader());
      while (!signal.aborted) {
        const head = await bytes.take(4);
        const size = new DataView(head.buffer, head.byteOffset, 4).getUint32(0);
        const header = JSON.parse(new TextDecoder().decode(await bytes.take(size)));
        const data = await bytes.take(header.bytes);
        clearTimeout(silence);
        silence = setTimeout(stop, QUIET);
        good();
        if (!header.bytes) continue;
        header.heard = performance.now();
        const bitmap = await createImageBitmap(new Blob([data], { type: "image/jpeg" })).catch(() => null);
        if (bitmap && !signal.aborted) this.show(header, bitmap);
      }
    } finally {
      clearTimeout(silence);
      signal.removeEventListener("abort", stop);
      stop();
    }
  }
}
