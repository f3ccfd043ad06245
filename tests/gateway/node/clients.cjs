// Questions to a gateway by JavaScript clients. Each line of the standard input is one, as JSON: the
// client's name, the role and the texts; a line with the vectors or the error's message answers it.
// Asks `require` and not `import`, which knows no NODE_PATH.

const MODELS = { query: "e5-mini-query", document: "e5-mini-passage" };

const clients = {
  async openai({ url, role, texts }) {
    const { OpenAI } = require("openai");
    const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "any" });
    const answer = await client.embeddings.create({ model: MODELS[role], input: texts });
    return answer.data.map((row) => row.embedding);
  },

  async cohere_v2({ url, role, texts }) {
    const { CohereClientV2 } = require("cohere-ai");
    const answer = await new CohereClientV2({ token: "any", environment: url }).embed({
      model: "e5-mini", texts, inputType: `search_${role}`, embeddingTypes: ["float"],
    });
    return answer.embeddings.float;
  },

  async cohere_v1({ url, role, texts }) {
    const { CohereClient } = require("cohere-ai");
    const client = new CohereClient({ token: "any", environment: url });
    const answer = await client.embed({ model: "e5-mini", texts, inputType: `search_${role}` });
    return answer.embeddings;
  },

  async ai_sdk({ url, role, texts }) {
    const { createOpenAICompatible } = require("@ai-sdk/openai-compatible");
    const { embedMany } = require("ai");
    const provider = createOpenAICompatible({ name: "e5", baseURL: `${url}/v1`, apiKey: "any" });
    const model = provider.textEmbeddingModel(MODELS[role]);
    return (await embedMany({ model, values: texts })).embeddings;
  },

  async azure_openai({ url, role, texts }) {
    const { AzureOpenAI } = require("openai");
    const client = new AzureOpenAI({ endpoint: url, apiKey: "any", apiVersion: "2024-10-21" });
    const answer = await client.embeddings.create({ model: MODELS[role], input: texts });
    return answer.data.map((row) => row.embedding);
  },

  async replicate({ url, role, texts }) {
    const Replicate = require("replicate");
    const client = new Replicate({ auth: "any", baseUrl: `${url}/v1` });
    const input = { [role === "query" ? "queries" : "documents"]: texts, normalize: true };
    return (await client.run("you/e5-mini", { input })).embeddings;
  },

  async replicate_polled({ url, role, texts }) {
    const Replicate = require("replicate");
    const client = new Replicate({ auth: "any", baseUrl: url });
    const input = { [role === "query" ? "queries" : "documents"]: texts, normalize: true };
    let made = await client.predictions.create({ version: "any", input });
    made = await client.wait(made, {});
    made = await client.predictions.get(made.id); // as the clients for Go and Swift do
    return made.output.embeddings;
  },

  async langchain({ url, role, texts }) {
    const { OpenAIEmbeddings } = require("@langchain/openai");
    const client = new OpenAIEmbeddings({
      model: MODELS[role], apiKey: "any", configuration: { baseURL: `${url}/v1` },
      stripNewLines: false, // by default it writes line breaks as spaces
    });
    if (role === "query") return [await client.embedQuery(texts[0])];
    return client.embedDocuments(texts);
  },
};

async function main() {
  for await (const line of require("readline").createInterface({ input: process.stdin })) {
    const asked = JSON.parse(line);
    let answer;
    try {
      answer = { vectors: await clients[asked.client](asked) };
    } catch (error) {
      answer = { error: String(error.message) };
    }
    process.stdout.write(JSON.stringify(answer) + "\n");
  }
}

main();
