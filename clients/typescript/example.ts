/** `node example.ts URL TOKEN ID...`: the health of assets. */
import { gateway } from "./client.ts";

declare const process: { argv: string[]; exitCode: number };

const [url = "", token = "", ...assetIds] = process.argv.slice(2);
const client = gateway(url, token);
const { data, error } = await client.POST("/api/v1/ml/features/assets", { body: { assetIds } });
if (error) {
  console.error(error.statusCode, error.message, error.details);
  process.exitCode = 1;
} else {
  for (const asset of data.features) console.log(asset.assetId, asset.status, asset.features.health_score);
}
