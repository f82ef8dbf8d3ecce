// A tool round trip with the Vercel AI SDK: argv[2] is the base address. Prints the report that drivers.py describes.

import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

const results = JSON.parse(process.env.RESULTS);
const provider = createOpenAICompatible({ name: "proxy", baseURL: process.argv[2], apiKey: "none" });

const errors = [];
const ran = [];
const run = (name) => {
  ran.push(name);
  return results[name];
};
const answer = streamText({
  model: provider("devstral"),
  prompt: process.env.QUESTION,
  tools: {
    get_weather: tool({
      description: "Return the weather of a city.",
      inputSchema: z.object({ city: z.string() }),
      execute: () => run("get_weather"),
    }),
    get_time: tool({
      description: "Return the time.",
      inputSchema: z.object({}),
      execute: () => run("get_time"),
    }),
  },
  stopWhen: stepCountIs(4),
  maxRetries: 0,
  experimental_telemetry: { isEnabled: false },
  onError: ({ error }) => errors.push(error),
});

// Read everything, as an application does that shows the answer while it comes. An error inside a stream is told to
// onError and ends the turn with the finish reason "error"; the promise of the steps fails only when there are none.
await answer.consumeStream();
const steps = await Promise.resolve(answer.steps).catch((error) => (errors.push(error), []));
const turns = steps.map((step) => ({
  calls: step.toolCalls.map((call) => [call.toolName, call.input]),
  text: step.text,
  reasoning: step.reasoningText ?? "",
  finish: step.finishReason,
}));
const messages = errors.map((error) => error.message ?? JSON.stringify(error));
console.log(JSON.stringify({ turns, ran, error: messages[0] ?? "" }));
