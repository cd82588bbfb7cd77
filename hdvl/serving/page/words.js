"use strict";
// The words of the page in each of its languages.
const WORDS = {
  en: {
    model: "Model", new: "New chat", theme: "Light or dark", options: "Options", add: "Add images",
    question: "Ask about the images. Paste or drop images here.", send: "Ask", stop: "Stop",
    examples: "Examples", tiles: "Most tiles of an image", temperature: "Temperature (0: the likeliest words)",
    top_p: "Top p", max_tokens: "Most tokens of an answer", system: "System message", key: "API key",
    close: "Close", automatic: "model", again: "Again", remove: "Remove", stopped: "stopped",
    length: "ended by the limit of tokens", notImage: name => `${name} is no image that this page can show.`,
    cost: (images, tokens) => `${images} image(s), ${tokens} tokens to read`,
    one: (w, h, tiles, tokens) => `${w}×${h}, ${tiles} tiles, ${tokens} tokens`,
    took: (read, wrote, s) => `${read} tokens read, ${wrote} written, ${s} s`,
    lost: "The server cannot be reached.", other: "中文",
  },
  zh: {
    model: "模型", new: "新对话", theme: "浅色或深色", options: "选项", add: "添加图片",
    question: "就图片提问。可粘贴或拖入图片。", send: "提问", stop: "停止",
    examples: "示例", tiles: "每张图片的最多切片数", temperature: "温度（0：最可能的词）",
    top_p: "Top p", max_tokens: "回答的最多词元数", system: "系统消息", key: "API 密钥",
    close: "关闭", automatic: "模型默认", again: "重新生成", remove: "移除", stopped: "已停止",
    length: "达到词元上限", notImage: name => `${name} 不是此页面能显示的图片。`,
    cost: (images, tokens) => `${images} 张图片，需读取 ${tokens} 个词元`,
    one: (w, h, tiles, tokens) => `${w}×${h}，${tiles} 个切片，${tokens} 个词元`,
    took: (read, wrote, s) => `读取 ${read} 个词元，写出 ${wrote} 个，${s} 秒`,
    lost: "无法连接服务器。", other: "English",
  },
};
let words = WORDS.en;

function translate(language) {
  words = WORDS[language];
  document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
  for (const item of document.querySelectorAll("[data-text]")) item.textContent = words[item.dataset.text];
  for (const item of document.querySelectorAll("[data-hint]")) {
    item.placeholder = words[item.dataset.hint];
    item.setAttribute("aria-label", words[item.dataset.hint]);
  }
  for (const item of document.querySelectorAll("[data-label]")) {
    item.title = words[item.dataset.label];
    item.setAttribute("aria-label", words[item.dataset.label]);
  }
  const other = document.getElementById("language");
  other.textContent = words.other;
  other.lang = language === "zh" ? "en" : "zh";
}
