// The daemon's requests. A refusal becomes an Error with the daemon's words; without the token one is asked for it.

const login = document.getElementById("login");

export class Refused extends Error {
  constructor(status, words) {
    super(words);
    this.status = status;
  }
}

async function ask(method, path, body, type = "application/json") {
  let answer;
  try {
    answer = await fetch(path, {method, body, headers: body === undefined ? {} : {"content-type": type}});
  } catch {
    throw new Refused(0, "the daemon is not there");
  }
  if (answer.status === 401 && path !== "/login") {
    await logIn();
    return ask(method, path, body, type);
  }
  if (!answer.ok) throw new Refused(answer.status, await wordsOf(answer));
  return answer;
}

async function wordsOf(answer) {
  const text = await answer.text();
  try {
    const told = JSON.parse(text);
    return told.error || told.detail || told.title || text;
  } catch {
    return text.trim() || `HTTP status ${answer.status}`;
  }
}

export const get = async (path) => (await ask("GET", path)).json();
export const getBlob = async (path) => (await ask("GET", path)).blob();
export const post = async (path, body = {}) => (await ask("POST", path, JSON.stringify(body))).json();
export const postText = async (path, text) => (await ask("POST", path, text, "text/plain")).json();
export const postFile = async (path, file) => (await ask("POST", path, file || "", "application/octet-stream")).json();

// Ask for something that may not be there: null in its place.
export async function getIfThere(path) {
  try {
    return await get(path);
  } catch (error) {
    if (error.status === 404) return null;
    throw error;
  }
}

// The token, from the address that `calledin demo` prints or from the form.

const offer = (token) => ask("POST", "/login", new URLSearchParams({token}).toString(),
  "application/x-www-form-urlencoded");
let loggingIn = null;

export function logIn() {
  loggingIn ||= new Promise((resolve) => {
    const form = login.querySelector("form");
    const wrong = login.querySelector(".wrong");
    form.onsubmit = async (event) => {
      event.preventDefault();
      try {
        await offer(form.elements.token.value);
        form.reset();
        wrong.textContent = "";
        login.close();
        loggingIn = null;
        resolve();
      } catch (error) {
        wrong.textContent = error.message;
      }
    };
    login.oncancel = (event) => event.preventDefault();
    login.showModal();
  });
  return loggingIn;
}

export async function logInByAddress() {
  const token = new URLSearchParams(location.hash.slice(1)).get("token");
  if (token === null) return;
  history.replaceState(null, "", location.pathname + location.search);
  await offer(token).catch(() => {});
}
