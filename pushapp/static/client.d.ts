/** Web Push for the site's pages: types of client.js. */

/** Options of each function. */
export interface PushOptions {
  /**
   * Who is signed in: any string that is the same each time. null: no user is signed in. Left out: the page
   * does not tell users apart.
   */
  user?: string | null;
  /**
   * The registration of the site's own service worker, which has importScripts("/push/service-worker.js").
   * Left out: pushapp's own worker, whose scope is pushapp's prefix. Use the same in all calls.
   */
  registration?: ServiceWorkerRegistration | Promise<ServiceWorkerRegistration>;
  /** The name of this browser in the user's list. Left out: "Firefox on Linux", for a new subscription. */
  label?: string;
  /** Headers of each request, for sites that sign in by a token. */
  headers?: Record<string, string>;
}

/** The server's response: the number of the user's subscriptions, null if the server could not be told. */
export interface PushResponse {
  ok: true;
  count: number | null;
}

export type PushErrorCode =
  | "unsupported"
  | "insecure"
  | "home-screen"
  | "denied"
  | "dismissed"
  | "push-service"
  | "unreachable"
  | "signed-out"
  | "refused"
  | "worker";

/** Why a call was rejected: `code` is for programs, `message` tells the user what to do. */
export class PushError extends Error {
  constructor(code: PushErrorCode, message: string);
  name: "PushError";
  code: PushErrorCode;
  /** The browser's own error, if there was one. */
  cause?: unknown;
}

/** Whether this browser can do Web Push on this page. */
export function supported(): boolean;

/** The browser's PushSubscription, or null. */
export function current(options?: PushOptions): Promise<PushSubscription | null>;

/** Call it in response to a click: asks for permission, subscribes, and tells the server. */
export function subscribe(options?: PushOptions): Promise<PushResponse & { count: number }>;

/** Call it on every page load: synchronizes browser and server, and never prompts. */
export function resume(options?: PushOptions): Promise<(PushResponse & { count: number }) | null>;

/** Ends the subscription in the browser, and tells the server. Resolves to null without a subscription. */
export function unsubscribe(options?: PushOptions): Promise<PushResponse | null>;
