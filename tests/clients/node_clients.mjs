// The openai package and the Vercel AI SDK at a server; what they understood goes to stdout as one JSON object.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, jsonSchema, Output, stepCountIs, streamText, tool } from "ai";
import OpenAI from "openai";

const [url, model] = process.argv.slice(2);
const question = "What is the capital of France?";
const weatherQuestion = "What is the weather in Paris?";
const description = "Get the weather in a city.";
const parameters = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };
const schema = {
  type: "object",
  properties: { big: { type: "boolean" } },
  required: ["big"],
  additionalProperties: false,
};

async function openai() {
  const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "none", maxRetries: 0 });
  const create = (fields) => client.chat.completions.create({ model, temperature: 0, ...fields });
  const asked = (content) => [{ role: "user", content }];
  const tools = [{ type: "function", function: { name: "get_weather", description, parameters } }];

  const whole = await create({ messages: asked(question) });
  let streamed = "";
  for await (const chunk of await create({ messages: asked(question), stream: true })) {
    streamed += chunk.choices[0]?.delta.content ?? "";
  }
  const { message } = (await create({ messages: asked(weatherQuestion), tools })).choices[0];
  const result = { role: "tool", tool_call_id: message.tool_calls[0].id, content: "sunny, 21 degrees" };
  const quoted = await create({ messages: [...asked(weatherQuestion), message, result], tools });
  const format = { type: "json_schema", json_schema: { name: "city", schema, strict: true } };
  const structured = await create({ messages: asked(question), response_format: format });
  const refused = await create({ messages: [] }).catch((error) => [error.status, error.param]);
  return {
    whole: whole.choices[0].message.content,
    streamed,
    call: [message.tool_calls[0].function.name, JSON.parse(message.tool_calls[0].function.arguments)],
    quoted: quoted.choices[0].message.content,
    structured: JSON.parse(structured.choices[0].message.content),
    refused,
  };
}

async function vercel() {
  const provider = createOpenAICompatible({
    name: "tokenyard",
    baseURL: `${url}/v1`,
    apiKey: "none",
    supportsStructuredOutputs: true,
    includeUsage: true,
  });
  const asked = { model: provider(model), temperature: 0, maxRetries: 0 };
  const get_weather = tool({
    description,
    inputSchema: jsonSchema(parameters),
    execute: async () => "sunny, 21 degrees",
  });

  const whole = await generateText({ ...asked, prompt: question });
  const stream = streamText({ ...asked, prompt: question });
  let streamed = "";
  for await (const text of stream.textStream) streamed += text;
  const steps = { ...asked, prompt: weatherQuestion, tools: { get_weather }, stopWhen: stepCountIs(3) };
  const agent = await generateText(steps);
  const agentStream = streamText(steps);
  await agentStream.consumeStream();
  const structured = await generateText({
    ...asked,
    prompt: question,
    output: Output.object({ schema: jsonSchema(schema) }),
  });
  const call = agent.steps[0].toolCalls[0];
  return {
    whole: whole.text,
    streamed,
    usage: (await stream.usage).outputTokens,
    call: [call.toolName, call.input],
    quoted: agent.text,
    quotedInStream: await agentStream.text,
    structured: structured.output,
  };
}

console.log(JSON.stringify({ openai: await openai(), vercel: await vercel() }));
