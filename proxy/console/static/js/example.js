// What a newcomer can send at once.

export const WEATHER = {
  tools: [
    {
      type: "function",
      function: {
        name: "get_weather",
        description: "The current weather in a city.",
        parameters: {
          type: "object",
          properties: {
            city: { type: "string", description: "Name of the city" },
            unit: { type: "string", enum: ["celsius", "fahrenheit"] },
          },
          required: ["city"],
        },
      },
    },
  ],
  prompt: "What is the weather in Oslo?",
  results: { get_weather: { temperature: 7, unit: "celsius", sky: "light rain" } },
};

export const THINKING = { effort: "low", prompt: "What is 17 + 25?" };
