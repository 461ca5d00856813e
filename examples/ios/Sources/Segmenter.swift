import CoreGraphics
import Foundation
import ImageIO
import OnnxRuntimeBindings

/// A class number per pixel, row by row.
struct ClassMap {
    let width: Int, height: Int
    var classes: [UInt16]

    /// The same at another size: each pixel takes the class under its center.
    func restored(width to: Int, height rows: Int) -> ClassMap {
        var result = ClassMap(width: to, height: rows, classes: [])
        result.classes.reserveCapacity(to * rows)
        for y in 0..<rows {
            let row = (2 * y + 1) * height / (2 * rows) * width
            for x in 0..<to { result.classes.append(classes[row + (2 * x + 1) * width / (2 * to)]) }
        }
        return result
    }
}

/// Runs a bundle's network on the processor. Use it from one background queue.
final class Segmenter {
    private let bundle: ModelBundle
    private let artifact: Manifest.Artifact
    private let environment: ORTEnv
    private let session: ORTSession

    init(bundle: ModelBundle, threads: Int32 = 2) throws {
        self.bundle = bundle
        artifact = try bundle.choose()
        environment = try ORTEnv(loggingLevel: .error)
        let options = try ORTSessionOptions()
        try options.setIntraOpNumThreads(threads)
        // The fusions for processors that an .ort file for accelerators brings; its hash is checked, so it can be trusted.
        try options.addConfigEntry(withKey: "session.enable_saved_runtime_optimizations", value: "1")
        session = try ORTSession(env: environment, modelPath: bundle.file(artifact.model).path, sessionOptions: options)
    }

    /// The class map of an upright picture, at the picture's size.
    func segment(_ picture: CGImage) throws -> ClassMap {
        let input = try tensor(of: picture, bundle.manifest.preprocess)
        return try answer(to: input).classes.restored(width: picture.width, height: picture.height)
    }

    /// Whether this phone computes what the bundle's makers computed: its golden pair, within the manifest's tolerance.
    func check() throws -> Verdict {
        guard let golden = bundle.manifest.golden else { throw BundleError("The bundle has no golden pair to check with.") }
        guard let limits = golden.tolerance[artifact.precision] else {
            throw BundleError("The golden pair has no tolerance for \(artifact.precision).")
        }
        let place = try bundle.file(golden.picture)
        guard let source = CGImageSourceCreateWithURL(place as CFURL, nil),
              let picture = CGImageSourceCreateImageAtIndex(source, 0, nil)
        else { throw BundleError("'\(golden.picture)' cannot be decoded.") }
        let spec = bundle.manifest.preprocess
        let wanted = try Npy(golden.input, in: bundle).floats()
        let prepared = try tensor(of: picture, spec)
        guard prepared.count == wanted.count else { throw BundleError("'\(golden.input)' is not of the network's size.") }
        let steps = (255 * (spec.std.max() ?? 1) * farthest(prepared, wanted)).rounded()
        let (values, classes) = try answer(to: wanted)
        let expected = try Npy(golden.output, in: bundle).floats()
        let range = Double(expected.max() ?? 0) - Double(expected.min() ?? 0)
        let overRange = farthest(values, expected) / range
        let agreement = try percentEqual(classes.classes, Npy(golden.answer, in: bundle).classes())
        let near = limits.max_abs_over_range.map { overRange <= $0 } ?? true
        let passed = steps <= 1 && near && agreement >= limits.argmax_agreement
        return Verdict(passed: passed, inputSteps: steps, overRange: overRange, agreement: agreement)
    }

    /// The values that the network answers with, and the class map at the input's size.
    private func answer(to tensor: [Float]) throws -> (values: [Float], classes: ClassMap) {
        let spec = bundle.manifest.preprocess
        var input = tensor
        let data = NSMutableData(bytes: &input, length: 4 * input.count)
        let shape = [1, 3, NSNumber(value: spec.height), NSNumber(value: spec.width)]
        let value = try ORTValue(tensorData: data, elementType: .float, shape: shape)
        let name = artifact.postprocess.tensor
        let answer = try session.run(withInputs: [artifact.inputs[0].name: value], outputNames: [name], runOptions: nil)[name]!
        let dims = try answer.tensorTypeAndShapeInfo().shape.map(\.intValue)
        let values = try (answer.tensorData() as Data).withUnsafeBytes { Array($0.bindMemory(to: Float.self)) }
        guard values.allSatisfy(\.isFinite) else { throw BundleError("The network answered with values that are no numbers.") }
        let upsample = artifact.postprocess.upsample == "bilinear"
        let size = upsample ? (spec.width, spec.height) : (dims[3], dims[2])
        return (values, classMap(values, dims[1], dims[2], dims[3], size.0, size.1))
    }
}

/// 3 x height x width, normalized; resized along rows, rounded to 8 bit, then along columns, rounded.
func tensor(of picture: CGImage, _ spec: Manifest.Preprocess) throws -> [Float] {
    let (width, height) = (picture.width, picture.height)
    var pixels = [UInt8](repeating: 255, count: 4 * width * height)
    let space = picture.colorSpace.flatMap { $0.model == .rgb ? $0 : nil } ?? CGColorSpaceCreateDeviceRGB()
    let info = CGImageAlphaInfo.noneSkipLast.rawValue
    guard let context = CGContext(data: &pixels, width: width, height: height, bitsPerComponent: 8, bytesPerRow: 4 * width, space: space, bitmapInfo: info)
    else { throw BundleError("The picture cannot be read.") }
    let whole = CGRect(x: 0, y: 0, width: width, height: height)
    context.setFillColor(CGColor(red: 1, green: 1, blue: 1, alpha: 1))
    context.fill(whole)
    context.draw(picture, in: whole)
    let (across, down) = (Taps(width, spec.width), Taps(height, spec.height))
    var result = [Float]()
    result.reserveCapacity(3 * spec.width * spec.height)
    var rows = [Int](repeating: 0, count: spec.width * height)
    for channel in 0..<3 {
        let table = (0..<256).map { Float((Double($0) / 255 - spec.mean[channel]) / spec.std[channel]) }
        for y in 0..<height {
            for x in 0..<spec.width { rows[y * spec.width + x] = across.sum(x) { Int(pixels[4 * (y * width + $0) + channel]) } }
        }
        for y in 0..<spec.height {
            for x in 0..<spec.width { result.append(table[down.sum(y) { rows[$0 * spec.width + x] }]) }
        }
    }
    return result
}

/// A triangle filter, widened by the reduction, with weights in 22-bit fixed point.
struct Taps {
    private static let bits = 22
    private var first: [Int] = []
    private var weights: [[Int]] = []

    init(_ source: Int, _ target: Int) {
        let scale = Double(source) / Double(target)
        let reach = max(scale, 1)
        for to in 0..<target {
            let center = (Double(to) + 0.5) * scale
            let from = max(0, Int(center - reach + 0.5)), end = min(source, Int(center + reach + 0.5))
            let raw = (from..<end).map { max(0, 1 - abs((Double($0) - center + 0.5) / reach)) }
            let total = raw.reduce(0, +)
            first.append(from)
            weights.append(raw.map { Int($0 / total * Double(1 << Self.bits) + 0.5) })
        }
    }

    func sum(_ to: Int, _ value: (Int) -> Int) -> Int {
        var sum = 1 << (Self.bits - 1)
        for (index, weight) in weights[to].enumerated() { sum += value(first[to] + index) * weight }
        return min(max(sum >> Self.bits, 0), 255)
    }
}

/// The class that wins at each pixel after bilinear upsampling with half-pixel centers. Between four neighboring values
/// only a class whose largest corner reaches every other class's smallest can win; only those are interpolated.
func classMap(_ values: [Float], _ classes: Int, _ rows: Int, _ columns: Int, _ width: Int, _ height: Int) -> ClassMap {
    let plane = rows * columns
    let slack = 8 * Float.ulpOfOne * (values.map(abs).max() ?? 0)
    var result = ClassMap(width: width, height: height, classes: [UInt16](repeating: 0, count: width * height))
    var able: [Int] = []
    var cell = -1
    for y in 0..<height {
        let down = min(max((Double(y) + 0.5) * Double(rows) / Double(height) - 0.5, 0), Double(rows - 1))
        let top = Int(down), bottom = min(top + 1, rows - 1)
        for x in 0..<width {
            let across = min(max((Double(x) + 0.5) * Double(columns) / Double(width) - 0.5, 0), Double(columns - 1))
            let left = Int(across), right = min(left + 1, columns - 1)
            let corners = [top * columns + left, top * columns + right, bottom * columns + left, bottom * columns + right]
            if cell != corners[0] {
                cell = corners[0]
                let floor = (0..<classes).map { k in corners.map { values[k * plane + $0] }.min()! }.max()!
                able = (0..<classes).filter { k in corners.map { values[k * plane + $0] }.max()! >= floor - slack }
            }
            var (best, winner) = (-Float.infinity, able[0])
            for k in able where able.count > 1 {
                let at = corners.map { values[k * plane + $0] }
                let share = Float(across - Double(left))
                let upper = at[0] + (at[1] - at[0]) * share, lower = at[2] + (at[3] - at[2]) * share
                let value = upper + (lower - upper) * Float(down - Double(top))
                if value > best { (best, winner) = (value, k) }
            }
            result.classes[y * width + x] = UInt16(winner)
        }
    }
    return result
}
