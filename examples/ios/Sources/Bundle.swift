import CryptoKit
import Foundation

/// Something to tell the person in front of the app.
struct BundleError: LocalizedError {
    let errorDescription: String?

    init(_ message: String) { errorDescription = message }
}

/// What every version of a manifest has, read first: the rest may have changed.
private struct Head: Decodable { let schema_version: Int, task: String }

/// What the app reads of a manifest; keys as in `docs/bundle-manifest.schema.json`.
struct Manifest: Decodable {
    struct Preprocess: Decodable {
        let height: Int, width: Int
        let resize: String, interpolation: String
        let mean: [Double], std: [Double]
    }

    struct Tensor: Decodable { let name: String }

    struct Postprocess: Decodable { let tensor: String, upsample: String, decide: String }

    struct Mobile: Decodable { let path: String }

    struct Artifact: Decodable {
        let path: String, kind: String, precision: String
        let runtimes: [String], requires: [String]
        let inputs: [Tensor]
        let postprocess: Postprocess
        let mobile: Mobile?

        /// ONNX Runtime's own format where the bundle has it (`deploy --mobile`), which its smaller builds need.
        var model: String { mobile?.path ?? path }
    }

    struct File: Decodable { let path: String, sha256: String }

    /// How far a phone may be from where the bundle was made; without a range only decisions are compared.
    struct Tolerance: Decodable { let max_abs_over_range: Double?, argmax_agreement: Double }

    /// The pair to check an app with: a picture, and what has to become of it.
    struct Golden: Decodable {
        let picture: String, input: String, output: String, answer: String
        let tolerance: [String: Tolerance]
    }

    let labels: [String]
    let palette: [[UInt8]]
    let preprocess: Preprocess
    let artifacts: [Artifact]
    let files: [File]
    let golden: Golden?
}

/// A bundle directory; nothing in it is used before its SHA-256 was checked.
struct ModelBundle {
    static let version = 1
    let root: URL
    let manifest: Manifest

    init(root: URL) throws {
        self.root = root
        guard let text = try? Data(contentsOf: root.appendingPathComponent("manifest.json")) else {
            throw BundleError("There is no bundle in '\(root.path)': manifest.json is missing.")
        }
        let head = try Self.decode(Head.self, from: text)
        guard (1...Self.version).contains(head.schema_version) else {
            throw BundleError("The bundle has schema version \(head.schema_version); this app reads up to \(Self.version).")
        }
        guard head.task == "seg" else { throw BundleError("This app segments; the bundle classifies.") }
        manifest = try Self.decode(Manifest.self, from: text)
        guard manifest.preprocess.resize == "stretch", manifest.preprocess.interpolation == "bilinear" else {
            throw BundleError("This app resizes by stretching and bilinearly only; the bundle asks for something else.")
        }
    }

    /// What the manifest says; what is missing or of another type there is told in words.
    private static func decode<T: Decodable>(_ type: T.Type, from text: Data) throws -> T {
        do {
            return try JSONDecoder().decode(type, from: text)
        } catch let error as DecodingError {
            throw BundleError("manifest.json is not the manifest of a bundle: \(words(error))")
        }
    }

    private static func words(_ error: DecodingError) -> String {
        switch error {
        case .keyNotFound(let key, _):
            return "it lacks '\(key.stringValue)'"
        case .typeMismatch(_, let context), .valueNotFound(_, let context), .dataCorrupted(let context):
            let place = context.codingPath.map(\.stringValue).joined(separator: ".")
            return place.isEmpty ? context.debugDescription : "\(place): \(context.debugDescription)"
        @unknown default:
            return error.localizedDescription
        }
    }

    /// The file to run on a phone: made for any processor, the smallest precision first.
    func choose() throws -> Manifest.Artifact {
        let order = ["int8", "fp16", "fp32"]
        let rank = { (entry: Manifest.Artifact) in order.firstIndex(of: entry.precision) ?? order.count }
        // The app takes values per class; a file that ends in a class map is another one's network once more.
        let fitting = manifest.artifacts.filter {
            $0.kind == "onnx" && $0.requires.isEmpty && $0.runtimes.contains("onnxruntime") && $0.postprocess.decide == "argmax"
        }
        guard let best = fitting.min(by: { rank($0) < rank($1) }) else {
            throw BundleError("Nothing in the bundle runs on a phone. It holds: " + manifest.artifacts.map(\.path).joined(separator: ", "))
        }
        return best
    }

    /// Where a file lies, after its hash was checked.
    func file(_ path: String) throws -> URL {
        let place = root.appendingPathComponent(path)
        guard let content = try? Data(contentsOf: place) else {
            throw BundleError("The bundle lacks '\(path)', which its manifest lists.")
        }
        let digest = SHA256.hash(data: content).map { String(format: "%02x", $0) }.joined()
        guard manifest.files.contains(where: { $0.path == path && $0.sha256 == digest }) else {
            throw BundleError("'\(path)' is not the file its manifest describes (sha256 differs).")
        }
        return place
    }
}
