// The page's words, English and Chinese. Elements name theirs with data-i18n (text), data-i18n-label, data-i18n-hint.

const WORDS = {
  en: {
    title: "Qwen chat",
    new_chat: "New chat",
    settings: "Settings",
    close: "Close",
    theme: "Switch between light and dark",
    language: "切换到中文",
    language_short: "中",
    message: "Message",
    message_hint: "Ask anything…",
    send: "Send",
    stop: "Stop",
    keys: "Enter sends · Shift+Enter new line · Esc stops",
    to_end: "Jump to the latest message",
    greeting: "What can I help with?",
    sample_1: "Explain in-flight batching in three sentences.",
    sample_2: "Write a Python function that merges two sorted lists.",
    sample_3: "Compare FP8 and INT8 quantization in a table.",
    you: "You",
    assistant: "Assistant",
    copy: "Copy",
    copied: "Copied",
    retry: "Retry",
    regenerate: "Answer again",
    edit: "Edit",
    editing: "Editing your last message",
    cancel: "Cancel",
    thinking: "Reading the prompt…",
    answering: "Answering…",
    answered: "Answer complete",
    stopped: "Stopped",
    cut: "Cut off at the token limit",
    ttft: "first token {ms} ms",
    rate: "{n} tokens/s",
    tokens: "{n} tokens",
    prompt: "prompt {n}",
    prompt_cached: "prompt {n} ({cached} cached)",
    context: "{used} of {all} context tokens used",
    synthetic: "This model has random weights: the text is noise. Everything else here is real.",
    offline: "The server cannot be reached.",
    error_network: "The server cannot be reached. Check that it is running and that you are online.",
    error_busy: "The server is busy: its queue is full.",
    error_unavailable: "The server is starting, shutting down or restarting. Try again in a moment.",
    error_auth: "This server needs an API key, or the one given is not valid. Enter it under Settings.",
    error_too_long: "The conversation no longer fits into the model's context. Start a new chat, or shorten your last message.",
    error_refused: "The server refused the request.",
    error_server: "The server failed while answering.",
    error_broken: "The connection broke off in the middle of the answer.",
    wait: "You can try again in {s} s.",
    model: "Model",
    system: "System prompt",
    system_hint: "Empty: the model's own",
    temperature: "Temperature",
    top_p: "Top p",
    top_k: "Top k",
    repetition_penalty: "Repetition penalty",
    max_tokens: "Longest answer, tokens",
    seed: "Seed",
    by_server: "server default",
    out_of_range: "Must be between {min} and {max}",
    api_key: "API key",
    key_hint: "Kept in this tab only, forgotten when it closes",
    reset: "Reset to defaults",
  },
  zh: {
    title: "Qwen 聊天",
    new_chat: "新对话",
    settings: "设置",
    close: "关闭",
    theme: "切换浅色与深色",
    language: "Switch to English",
    language_short: "EN",
    message: "消息",
    message_hint: "想问点什么？",
    send: "发送",
    stop: "停止",
    keys: "Enter 发送 · Shift+Enter 换行 · Esc 停止",
    to_end: "跳到最新消息",
    greeting: "有什么可以帮您？",
    sample_1: "用三句话解释什么是动态批处理（in-flight batching）。",
    sample_2: "写一个合并两个有序列表的 Python 函数。",
    sample_3: "用表格比较 FP8 与 INT8 量化。",
    you: "您",
    assistant: "助手",
    copy: "复制",
    copied: "已复制",
    retry: "重试",
    regenerate: "重新回答",
    edit: "编辑",
    editing: "正在编辑上一条消息",
    cancel: "取消",
    thinking: "正在读取提示…",
    answering: "正在回答…",
    answered: "回答完毕",
    stopped: "已停止",
    cut: "已达到 token 上限，回答被截断",
    ttft: "首个 token {ms} 毫秒",
    rate: "每秒 {n} 个 token",
    tokens: "回答 {n} 个 token",
    prompt: "提示 {n} 个",
    prompt_cached: "提示 {n} 个（缓存 {cached}）",
    context: "上下文已用 {used} / {all} 个 token",
    synthetic: "该模型使用随机权重：文本只是噪声，其余部分都是真实的。",
    offline: "无法连接服务器。",
    error_network: "无法连接服务器。请确认服务器正在运行，并检查网络。",
    error_busy: "服务器繁忙：队列已满。",
    error_unavailable: "服务器正在启动、关闭或重启，请稍后重试。",
    error_auth: "此服务器需要 API 密钥，或密钥无效。请在“设置”中填写。",
    error_too_long: "对话已超出模型的上下文长度。请开始新对话，或缩短上一条消息。",
    error_refused: "服务器拒绝了该请求。",
    error_server: "服务器在回答时出错。",
    error_broken: "回答途中连接中断。",
    wait: "{s} 秒后可以重试。",
    model: "模型",
    system: "系统提示",
    system_hint: "留空则使用模型自带的提示",
    temperature: "温度",
    top_p: "Top p",
    top_k: "Top k",
    repetition_penalty: "重复惩罚",
    max_tokens: "回答上限（token）",
    seed: "随机种子",
    by_server: "服务器默认值",
    out_of_range: "须在 {min} 与 {max} 之间",
    api_key: "API 密钥",
    key_hint: "仅保存在此标签页，关闭即清除",
    reset: "恢复默认设置",
  },
};

let language = "en";

export const LANGUAGES = Object.keys(WORDS);
export const wordsOf = (name) => WORDS[name];
export const currentLanguage = () => language;

/** The sentence `key` in the page's language, `{name}` replaced. */
export const t = (key, values = {}) => WORDS[language][key].replace(/\{(\w+)\}/g, (_, name) => values[name]);

export const number = (value, digits = 0) =>
  value.toLocaleString(language === "zh" ? "zh-CN" : "en-US", { maximumFractionDigits: digits });

/** Sets the language ("" follows the browser) and every marked text under the document. */
export function setLanguage(chosen) {
  language = LANGUAGES.includes(chosen) ? chosen : navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en";
  document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
  document.title = t("title");
  for (const node of document.querySelectorAll("[data-i18n]")) node.textContent = t(node.dataset.i18n);
  for (const node of document.querySelectorAll("[data-i18n-hint]")) node.placeholder = t(node.dataset.i18nHint);
  for (const node of document.querySelectorAll("[data-i18n-label]")) {
    node.setAttribute("aria-label", t(node.dataset.i18nLabel));
    node.title = t(node.dataset.i18nLabel);
  }
}
