import Foundation

/// What `Segmenter.check` found.
struct Verdict {
    let passed: Bool
    /// Largest difference of the inputs, in steps of the 8-bit picture.
    let inputSteps: Double
    /// Largest difference of the outputs, over the golden output's range.
    let overRange: Double
    /// Equal pixels of the class maps, in percent.
    let agreement: Double
}

/// The values in a NumPy file, which a bundle writes little-endian and row by row.
struct Npy {
    private let path: String, type: String
    private let values: Data

    init(_ path: String, in bundle: ModelBundle) throws {
        let content = [UInt8](try Data(contentsOf: bundle.file(path)))
        guard content.count >= 10, Array(content[1..<6]) == Array("NUMPY".utf8) else { throw BundleError("'\(path)' is no NumPy file.") }
        let start = 10 + Int(content[8]) + 256 * Int(content[9])
        guard start <= content.count else { throw BundleError("'\(path)' is no whole NumPy file.") }
        // {'descr': '<f4', ...}
        let words = String(decoding: content[10..<start], as: UTF8.self).components(separatedBy: "'")
        self.path = path
        type = words.count > 3 && words[1] == "descr" ? words[3] : ""
        values = Data(content[start...])
    }

    func floats() throws -> [Float] {
        guard type == "<f4" else { throw BundleError("'\(path)' holds values of type '\(type)', not '<f4'.") }
        return values.withUnsafeBytes { Array($0.bindMemory(to: Float.self)) }
    }

    func classes() throws -> [UInt16] {
        switch type {
        case "|u1": return values.map { UInt16($0) }
        case "<u2": return values.withUnsafeBytes { Array($0.bindMemory(to: UInt16.self)) }
        default: throw BundleError("'\(path)' holds values of type '\(type)', not class numbers.")
        }
    }
}

/// The largest difference; infinite between arrays of other lengths.
func farthest(_ one: [Float], _ other: [Float]) -> Double {
    guard one.count == other.count else { return .infinity }
    return zip(one, other).map { abs(Double($0) - Double($1)) }.max() ?? 0
}

/// Equal classes in percent; none between maps of other sizes.
func percentEqual(_ one: [UInt16], _ other: [UInt16]) -> Double {
    guard one.count == other.count else { return 0 }
    return 100 * Double(zip(one, other).filter { $0 == $1 }.count) / Double(one.count)
}
