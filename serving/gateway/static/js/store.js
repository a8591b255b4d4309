// What survives a reload. Settings: this browser. Conversation: this tab first, so that two tabs do not overwrite each
// other, and this browser for the next tab. API key: this tab only, never on disk longer than the session.

const SETTINGS = "qwen.settings";
const CONVERSATION = "qwen.conversation";
const KEY = "qwen.key";

const parse = (text, otherwise) => {
  try {
    return text ? JSON.parse(text) : otherwise;
  } catch (cause) {
    console.warn("stored value is damaged, starting afresh", cause);
    return otherwise;
  }
};

function write(storage, name, value) {
  try {
    storage.setItem(name, value);
  } catch (cause) {
    console.warn(`${name} could not be saved`, cause); // full or forbidden storage must not stop the chat
  }
}

export const loadSettings = () => parse(localStorage.getItem(SETTINGS), {});
export const saveSettings = (settings) => write(localStorage, SETTINGS, JSON.stringify(settings));

export const loadKey = () => sessionStorage.getItem(KEY) ?? "";
export const saveKey = (key) => write(sessionStorage, KEY, key);

export function loadConversation() {
  const messages = parse(sessionStorage.getItem(CONVERSATION) ?? localStorage.getItem(CONVERSATION), []);
  for (const message of messages) if (["waiting", "streaming"].includes(message.state)) message.state = "stopped";
  return messages.filter((message) => message.role === "user" || message.content || message.error);
}

export function saveConversation(messages) {
  const text = JSON.stringify(messages);
  write(sessionStorage, CONVERSATION, text);
  write(localStorage, CONVERSATION, text);
}
